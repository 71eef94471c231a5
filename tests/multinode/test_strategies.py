"""Any strategy runs on several machines without a scheduler: the loss curve is that of strategy=local on one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.command import TRAINKIT, curve, done
from tests.multinode.hosts import Hosts
from tests.multinode.runs import MEET

WORDS = (
    "recipe=llm_pretrain",
    "recipe.seq_len=32",
    "recipe.sample_prompt=null",
    "recipe.vocab=512",
    "recipe.heldout=0.0005",
    "train.steps=5",
    "train.global_batch=8",
    "train.micro_batch=2",
    "train.eval_every=null",
    "train.device=cpu",
    "checkpoint.metric=null",
    "tracker=none",
    "run.dir=run",
)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of strategy=local."""
    folder = tmp_path_factory.mktemp("local")
    done(folder, *WORDS)
    return folder / "run"


@pytest.mark.slow
@pytest.mark.drill
@pytest.mark.parametrize("strategy", ["fsdp", "tensor", "pipeline", "zero3", "horovod", "accelerate"])
def test_the_curve_is_that_of_local(hosts: Hosts, local: Path, strategy: str, tmp_path: Path) -> None:
    words = (*TRAINKIT, *WORDS, *MEET, "launcher.nodes=2", "launcher.ranks=1", f"strategy={strategy}")
    both = [hosts.run(name, tmp_path, *words) for name in ("a", "b")]
    assert [command.wait() for command in both] == [0, 0], both[0].said + both[1].said
    here, there = curve(local), curve(tmp_path / "run")
    assert [row["step"] for row in there] == [row["step"] for row in here]
    assert [row["loss"] for row in there[1:-1]] == pytest.approx([row["loss"] for row in here[1:-1]], rel=1e-5)
