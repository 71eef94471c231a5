"""A sweep as one job array of a real Slurm."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.e2e.command import events, summary, trainkit
from tests.slurm.cluster import Cluster
from tests.slurm.runs import SLURM, WORDS, around

SWEEP = ("sweep", *WORDS, *SLURM, "strategy=local", "train.epochs=2", "launcher.restart=no", "recovery.raised=0")


@pytest.mark.slow
def test_members_are_one_throttled_array_and_only_what_is_not_done_is_submitted_again(
    cluster: Cluster, tmp_path: Path
) -> None:
    """The second member's learning rate leaves no finite loss."""
    words = (*SWEEP, "optimizer.lr=1e-3,1e30", "launcher.sbatch.throttle=1", "anomaly.patience=1")
    words += ("recipe.width=5", "anomaly.rollbacks=0")
    first = trainkit(tmp_path, *words, **around(cluster))
    assert first.returncode == 0, first.stdout + first.stderr
    assert re.search(r"job \d+ is submitted, members 0, 1\n", first.stdout)
    assert "--array=0,1%1" in (tmp_path / "run/job.sbatch").read_text()
    early = trainkit(tmp_path, *words, **around(cluster))
    assert (early.returncode, "is submitted" in early.stdout) == (0, False), early.stdout + early.stderr
    cluster.until(lambda: not cluster.run("squeue", "-h").stdout.strip(), "both have ended", 120)
    good, bad = tmp_path / "run/lr=0.001", tmp_path / "run/lr=1e+30"
    assert (summary(good)["status"], summary(bad)["status"]) == ("done", "failed")
    assert events(good, "end")[0]["time"] < events(bad, "launch")[0]["time"]

    again = trainkit(tmp_path, *words, **around(cluster))
    assert "run: 1 done, 1 failed" in again.stdout
    assert "members 0\n" in again.stdout
    assert "lr=1e+30" in (tmp_path / "run/job.sbatch").read_text()
    assert "lr=0.001" not in (tmp_path / "run/job.sbatch").read_text()
    cluster.until(lambda: not cluster.run("squeue", "-h").stdout.strip(), "it has ended", 120)
    assert (len(events(good, "launch")), len(events(bad, "launch"))) == (1, 2)


def test_members_that_depend_on_those_before_are_no_array(cluster: Cluster, tmp_path: Path) -> None:
    words = (*SWEEP, "optimizer.lr=interval(1e-3,1)", "--sampler=tpe", "--trials=3")
    said = trainkit(tmp_path, *words, **around(cluster))
    assert said.returncode == 2
    assert "launcher=slurm: the members of a job array are fixed before it starts" in said.stderr
    assert [*tmp_path.iterdir()] == []
