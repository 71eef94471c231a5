"""strategy=auto."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainkit.cli.run import prepare
from trainkit.config.bundle import components
from trainkit.errors import ConfigError
from trainkit.plan import auto
from trainkit.plan.machine import site
from trainkit.plan.variants import variants

WORDS = ["recipe=image_classification", "strategy=auto", "train.device=cpu"]


@pytest.mark.parametrize(("ranks", "name"), [("auto", "local"), ("1", "local"), ("2", "ddp")])
def test_without_a_gpu_it_follows_from_the_number_of_ranks(
    ranks: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, settings, cluster = prepare([*WORDS, f"launcher.ranks={ranks}", f"run.dir={tmp_path}/run"])
    assert type(settings.strategy).__module__ == f"trainkit.strategy.{name}"
    assert config["strategy"]["_target_"].startswith(f"trainkit.strategy.{name}.")  # so it is in config.yaml
    assert cluster.ranks == max(1, settings.launcher.ranks if isinstance(settings.launcher.ranks, int) else 1)
    assert capsys.readouterr().err == f"strategy=auto: {name}, for {cluster.ranks} rank(s) without a GPU\n"


def test_keys_of_one_strategy_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"strategy\.tensor=2: is a key of one strategy"):
        auto.chosen([*WORDS, "strategy.tensor=2"])


def test_a_mistake_in_the_other_words_is_told_as_ever() -> None:
    with pytest.raises(ConfigError, match=r"train\.stepps"):
        auto.chosen([*WORDS, "train.stepps=3"])


def test_a_run_has_no_cluster() -> None:
    with pytest.raises(ConfigError, match="cluster is a word of `trainkit plan`"):
        prepare(["recipe=image_classification", "cluster=8xh100"])


@pytest.mark.parametrize("word", ["1xh100", "cpu", "8xh100", "64xa100", "1024xh200"])
def test_every_strategy_is_looked_at_on_every_machine(word: str) -> None:
    found = list(variants(site(word)))
    few = {"mesh"} if site(word).ranks < 4 else set()
    assert {words[0].removeprefix("strategy=") for words in found} == {*components("strategy")} - few
    assert len(set(found)) == len(found) < 25
