"""What an orchestrator does with launcher=slurm: it submits, and follows the job by the run folder."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.e2e.command import ROOT, events, summary
from tests.orchestrators.own import around as outside
from tests.orchestrators.own import program
from tests.slurm.cluster import Cluster
from tests.slurm.runs import SLURM, WORDS, around


@pytest.mark.slow
@pytest.mark.drill
def test_a_flow_follows_its_job_through_a_requeue(cluster: Cluster, tmp_path: Path) -> None:
    words = [word for word in (*WORDS, *SLURM, "strategy=local", "train.epochs=60") if not word.startswith("run.dir")]
    command = [program("prefect", "python"), str(ROOT / "launch/prefect_flow.py"), str(tmp_path / "run"), *words]
    own = {"PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90"}
    with (tmp_path / "said").open("wb") as out:
        flow = subprocess.Popen(
            command, cwd=tmp_path, env=outside(tmp_path) | around(cluster) | own, stdout=out, stderr=subprocess.STDOUT
        )
    cluster.until(lambda: (tmp_path / "run/metrics.jsonl").exists(), "the job trains", 120)
    (job,) = cluster.run("squeue", "-h", "-o", "%i").stdout.split()
    cluster.run("scancel", "--batch", "--signal=USR2", job)
    assert flow.wait(200) == 0, (tmp_path / "said").read_text()
    assert summary(tmp_path / "run")["status"] == "done"
    assert (len(events(tmp_path / "run", "requeue")), len(events(tmp_path / "run", "start"))) == (1, 2)
    assert "is submitted" in (tmp_path / "said").read_text()
