"""Any strategy runs under launcher=ray: the loss curve on two nodes is that of strategy=local on one machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.command import curve, done
from tests.ray.cluster import Cluster

STRATEGIES = ("ddp", "fsdp", "tensor", "pipeline", "mesh", "zero1", "zero2", "zero3", "horovod", "accelerate")
IN_CI = ("fsdp",)
WORDS = (
    *(
        "recipe=llm_pretrain",
        "recipe.seq_len=32",
        "recipe.sample_prompt=null",
        "recipe.vocab=512",
        "recipe.heldout=0.0005",
    ),
    *("train.steps=5", "train.global_batch=8", "train.micro_batch=2", "train.eval_every=null", "train.device=cpu"),
    *("checkpoint.metric=null", "tracker=none"),
)
NODES = ("launcher=ray", "launcher.workers=2", "launcher.placement=STRICT_SPREAD")


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of strategy=local."""
    folder = tmp_path_factory.mktemp("local")
    done(folder, *WORDS, "run.dir=run")
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy", [name if name in IN_CI else pytest.param(name, marks=pytest.mark.drill) for name in STRATEGIES]
)
def test_the_curve_is_that_of_local(cluster: Cluster, local: Path, strategy: str, tmp_path: Path) -> None:
    done(tmp_path, *WORDS, *NODES, f"launcher.address={cluster.address}", f"strategy={strategy}", "run.dir=run")
    run = tmp_path / "run"
    here, there = curve(local), curve(run)
    assert [row["step"] for row in there] == [row["step"] for row in here]
    assert [row["loss"] for row in there[1:-1]] == pytest.approx([row["loss"] for row in here[1:-1]], rel=1e-5)
    assert {path.name for path in run.glob("logs/attempt_1/rank_*.log")} == {"rank_0.log", "rank_1.log"}
