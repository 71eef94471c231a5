"""The cluster that the other tests here run on is a real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster

SCRIPT = """\
#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=1 --output=out.txt
srun bash -c 'echo $SLURM_PROCID $(hostname) $(pgrep -c slurmd)'
"""


def test_a_job_runs_on_two_machines(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "job").write_text(SCRIPT)
    number = cluster.run("sbatch", "--parsable", "job", cwd=tmp_path).stdout.strip()
    assert cluster.ended(number)["ExitCode"] == "0:0"
    said = sorted((tmp_path / "out.txt").read_text().split("\n"))[1:]
    first, second = (line.split() for line in said)
    assert (first[0], second[0]) == ("0", "1")
    assert first[1] != second[1] or not cluster.apart


@pytest.mark.slow
def test_a_node_without_power_is_missed_and_comes_back(cluster: Cluster) -> None:
    if not cluster.apart:
        pytest.skip("nodes are machines of their own for root only")
    cluster.off("node3")
    cluster.until(lambda: cluster.states()["node3"].startswith("down"), "node3 is missed")
    cluster.on("node3")
    cluster.until_usable(["node3"])
