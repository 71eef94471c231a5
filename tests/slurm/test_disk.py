"""The disk that the nodes share stands still while a run trains: it is waited for, and nothing is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.command import curve, done, events, last_step
from tests.slurm.cluster import Cluster
from tests.slurm.disk import PACKAGE, Disk, missing
from tests.slurm.runs import TWO, WORDS, Submitted
from tests.slurm.test_jobs import apart

pytestmark = [pytest.mark.slow, pytest.mark.drill]
STILL_S, KILL_WAIT_S = 30.0, 10.0
LONG = ("train.epochs=4000", "launcher.lost_s=5")


@pytest.fixture
def disk(cluster: Cluster, tmp_path: Path) -> Iterator[Disk]:
    apart(cluster)
    if missing():
        pytest.skip(f"there is no bindfs here: apt-get install {PACKAGE}")
    with Disk(cluster, tmp_path / "behind", tmp_path / "shared") as disk:
        yield disk


def test_it_stands_still_for_longer_than_a_node_may_be_silent(cluster: Cluster, disk: Disk) -> None:
    run = Submitted(cluster, disk.folder, *WORDS, *TWO, *LONG)
    run.reach(120)
    disk.stands_still()
    begun = time.monotonic()
    cluster.until(lambda: time.monotonic() > begun + STILL_S, "30 s")
    assert run.state() == "RUNNING"
    disk.goes_on()
    run.reach(last_step(run.run) + 100)
    (run.run / "STOP").touch()
    assert run.wait() == "75:0"
    assert [events(run.run, kind) for kind in ("failure", "restart", "requeue")] == [[], [], []]
    assert len(events(run.run, "start")) == 1
    steps = [row["step"] for row in curve(run.run)]
    assert steps == [*range(steps[-1] + 1)]


@pytest.mark.parametrize("restart", ["requeue", "chain"])
def test_a_save_that_the_job_just_has_time_for(restart: str, cluster: Cluster, disk: Disk) -> None:
    """Slurm has begun to end it when the disk is back: it saves, and goes on."""
    run = Submitted(cluster, disk.folder, *WORDS, *TWO, *LONG, f"launcher.restart={restart}")
    over(cluster, disk, run)
    disk.goes_on()
    goes_on(cluster, run, since=150)
    (again,) = events(run.run, "requeue")
    assert again["cause"] == "timeout"


def test_a_save_that_the_job_has_no_time_for(cluster: Cluster, disk: Disk) -> None:
    """Slurm wants all to be dead by then, which who waits for a disk may not be. The next job goes on from what was
    saved before, or even from what a rank can still save as it sees that others are gone."""
    run = Submitted(cluster, disk.folder, *WORDS, *TWO, *LONG, "launcher.restart=chain")
    over(cluster, disk, run)
    begun = time.monotonic()
    cluster.until(lambda: time.monotonic() > begun + KILL_WAIT_S + 5, "all are told to die")
    disk.goes_on()
    assert cluster.ended(run.job)["JobState"] == "TIMEOUT"
    goes_on(cluster, run, since=100)


def over(cluster: Cluster, disk: Disk, run: Submitted) -> None:
    """Its time is over while the disk stands still."""
    run.reach(150)
    disk.stands_still()
    cluster.run("scontrol", "update", f"JobId={run.job}", "EndTime=now+1seconds")
    cluster.until(lambda: run.state() in ("COMPLETING", "TIMEOUT"), "its time is over", 60)  # looked at every 30 s


def goes_on(cluster: Cluster, run: Submitted, since: int) -> None:
    """In another life, from that step or a later one of the first, until it is asked to stop; and nothing is lost."""
    cluster.until(lambda: len(events(run.run, "start")) == 2, f"it goes on: {run.output()}", 90)
    assert since <= events(run.run, "start")[1]["step"] < 250
    run.reach(last_step(run.run) + 50)
    (run.run / "STOP").touch()
    cluster.until(lambda: events(run.run, "end")[-1]["time"] > events(run.run, "start")[1]["time"], "it has ended")
    assert done(run.folder, "audit", "run").count("ok: ") >= 4
