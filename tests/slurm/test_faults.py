"""Slurm itself breaks while a run trains: what is Slurm's is missed, and no step is."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.e2e.command import curve, done, events, last_step
from tests.slurm.cluster import Cluster
from tests.slurm.runs import TWO, WORDS, Submitted
from tests.slurm.test_jobs import apart

pytestmark = pytest.mark.slow
OUTAGE_S = 20.0


def test_a_controller_that_is_away_is_not_missed(cluster: Cluster, tmp_path: Path) -> None:
    run = Submitted(cluster, tmp_path, *WORDS, *TWO, "train.epochs=4000")
    run.reach(50)
    cluster.stop_controller()
    begun, before = time.monotonic(), last_step(run.run)
    cluster.until(lambda: time.monotonic() > begun + OUTAGE_S, "20 s")
    assert last_step(run.run) > before + 50
    cluster.start_controller()
    run.reach(last_step(run.run) + 50)
    (run.run / "STOP").touch()
    assert run.wait() == "75:0"
    assert len(events(run.run, "start")) == 1
    steps = [row["step"] for row in curve(run.run)]
    assert steps == [*range(steps[-1] + 1)]


@pytest.mark.drill
def test_a_node_whose_slurmd_is_killed(cluster: Cluster, tmp_path: Path) -> None:
    """Slurm takes the node for lost, and starts the job again elsewhere; what trained on the node ends by itself."""
    apart(cluster)
    run = Submitted(cluster, tmp_path, *WORDS, *TWO, "train.epochs=4000")
    run.reach(150)
    lost = cluster.nodes_of(run.job)[-1]  # which nodes it gets is up to Slurm
    cluster.kill_slurmd(lost)
    cluster.until(lambda: cluster.job(run.job).get("Restarts") == "1", "the job starts again", 120)
    again = time.time()
    # Before Slurm has ended all of the job, what is left of it may have begun another attempt.
    cluster.until(lambda: events(run.run, "start")[-1]["time"] > again, "it trains again", 120)
    assert {event["cause"] for event in events(run.run, "requeue")} <= {"node"}  # none if all could save and leave
    assert cluster.nodes_of(run.job) == [name for name in cluster.names if name != lost]
    (run.run / "STOP").touch()
    assert run.wait() == "75:0"
    audit = done(run.run.parent, "audit", str(run.run))
    assert audit.count("ok: ") >= 4
