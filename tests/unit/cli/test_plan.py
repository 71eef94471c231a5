"""`trainkit plan` as it is typed, and what is said of wrong words."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainkit.cli.main import main
from trainkit.config.bundle import components

Capture = pytest.CaptureFixture[str]
RUN = ["recipe=llm_pretrain", "recipe.layers=1", "recipe.width=64", "recipe.seq_len=16", "recipe.vocab=300"]


def test_a_table_the_best_and_the_command(capsys: Capture) -> None:
    assert main(["plan", *RUN, "strategy=ddp", "cluster=8xh100"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("8xh100: 8 ranks on 1 node, 73.6 GB usable on each")
    kinds = ["strategy", "parameters", "gradients", "moments", "activations", "buffers", "peak", "sent", "micro"]
    assert out.splitlines()[1].split() == [*kinds, "step", "MFU"]
    assert "1. ddp: " in out and "python -m trainkit recipe=llm_pretrain" in out and "launcher.ranks=8" in out


def test_a_machine_that_nothing_fits_is_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    text = components("cluster")["h100"].read_text()
    (tmp_path / "conf" / "cluster").mkdir(parents=True)
    (tmp_path / "conf" / "cluster" / "tiny.yaml").write_text(text.replace("memory_gb: 80", "memory_gb: 0.001"))
    monkeypatch.chdir(tmp_path)
    assert main(["plan", *RUN, "strategy=ddp", "cluster=2xtiny"]) == 2
    out, err = capsys.readouterr()
    assert "too large: needs 1.5 MB of 920.0 kB" in out  # the table says it of each
    assert "1 problem" in err and "cluster=2xtiny: nothing fits; the least is ddp, which needs 1.5 MB" in err
    assert "activation_checkpointing=true" in err  # and what would help


def test_a_machine_on_which_nothing_runs_says_why(capsys: Capture) -> None:
    assert main(["plan", *RUN, "strategy=local", "cluster=8xh100"]) == 2
    assert "cluster=8xh100: no strategy runs there; local: launcher.ranks=8: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["cluster=8xh10"], "cluster=8xh10: there is no such machine"),
        ([], "cluster=null: no machine is named"),
        (["cluster=h100", "--mtbf-hours", "0"], "--mtbf-hours=0: is no number above 0"),
        (["cluster=h100", "--mtbf"], "there is no option --mtbf"),
        (["cluster=h100", "train.stepps=1"], "train.stepps"),
    ],
)
def test_bad_words_are_one_message(words: list[str], told: str, capsys: Capture) -> None:
    assert main(["plan", *RUN, *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("1 problem") and told in err


def test_what_failures_cost_on_16384_gpus(capsys: Capture) -> None:
    words = ["strategy=ddp", "cluster=16384xh100", "train.global_batch=16384"]
    assert main(["plan", *RUN, *words, "--mtbf-hours", "50000"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert any("2,048, so a failure every 24.4 hours" in row for row in rows)
    assert any("97.1% of the time trains (97.1% by the closed form)" in row for row in rows)
