"""Any strategy runs under launcher=slurm: the loss curve on two nodes is that of strategy=local on one machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.comparison import FEW_STEPS, STRATEGIES, each, same_curve
from tests.e2e.command import TRAINKIT
from tests.slurm.cluster import Cluster

NODES = ("launcher=slurm", "launcher.nodes=2", "launcher.ranks=1")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", each(STRATEGIES, "fsdp", "horovod"))
def test_the_curve_is_that_of_local(cluster: Cluster, local: Path, strategy: str, tmp_path: Path) -> None:
    """A command in a job of one's own, as after salloc."""
    command = " ".join([*TRAINKIT, *FEW_STEPS, *NODES, f"strategy={strategy}"])
    (tmp_path / "job").write_text(f"#!/bin/bash\nexport OMP_NUM_THREADS=1\n{command}\n")
    number = cluster.run("sbatch", "--parsable", "-N2", "--output=out", "job", cwd=tmp_path).stdout.strip()
    assert cluster.ended(number, 240)["ExitCode"] == "0:0", (tmp_path / "out").read_text()
    run = tmp_path / "run"
    same_curve(run, local)
    assert {path.name for path in run.glob("logs/attempt_1/rank_*.log")} == {"rank_0.log", "rank_1.log"}
