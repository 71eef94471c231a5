"""Any strategy runs under launcher=slurm: the loss curve on two nodes is that of strategy=local on one machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.command import TRAINKIT, curve, done
from tests.slurm.cluster import Cluster

STRATEGIES = ("ddp", "fsdp", "tensor", "pipeline", "mesh", "zero1", "zero2", "zero3", "horovod", "accelerate")
IN_CI = ("fsdp", "horovod")
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
NODES = ("launcher=slurm", "launcher.nodes=2", "launcher.ranks=1")


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
    """A command in a job of one's own, as after salloc."""
    command = " ".join([*TRAINKIT, *WORDS, *NODES, f"strategy={strategy}", "run.dir=run"])
    (tmp_path / "job").write_text(f"#!/bin/bash\nexport OMP_NUM_THREADS=1\n{command}\n")
    number = cluster.run("sbatch", "--parsable", "-N2", "--output=out", "job", cwd=tmp_path).stdout.strip()
    assert cluster.ended(number, 240)["ExitCode"] == "0:0", (tmp_path / "out").read_text()
    run = tmp_path / "run"
    here, there = curve(local), curve(run)
    assert [row["step"] for row in there] == [row["step"] for row in here]
    assert [row["loss"] for row in there[1:-1]] == pytest.approx([row["loss"] for row in here[1:-1]], rel=1e-5)
    assert {path.name for path in run.glob("logs/attempt_1/rank_*.log")} == {"rank_0.log", "rank_1.log"}
