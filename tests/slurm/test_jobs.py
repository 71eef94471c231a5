"""What becomes of a run in a real Slurm: it ends as an undisturbed one on one machine, whatever happens to its job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.command import NOT_TRACKED, curve, done, events, summary, trained, weights
from tests.slurm.cluster import Cluster
from tests.slurm.runs import SLURM, STEPS, TWO, WORDS, Submitted

WARNED = ("scancel", "--batch", "--signal=USR2")  # as Slurm does it --signal=B:USR2@120 before the time limit


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of WORDS with two ranks on this machine."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done(folder, *WORDS, *NOT_TRACKED, "launcher.ranks=2")
    return folder / "run"


def same_run(run: Path, other: Path) -> None:
    """To the bit, each step once, each sample once."""
    assert summary(run)["status"] == "done"
    assert curve(run) == curve(other)
    assert weights(run) == weights(other)
    assert trained(run) == trained(other)


def test_a_run_is_the_same_on_two_nodes(cluster: Cluster, undisturbed: Path, tmp_path: Path) -> None:
    """Submitting prints the job and where to look, and exits."""
    run = Submitted(cluster, tmp_path, *WORDS, *TWO)
    assert f"jobs logs -f {run.run}" in run.said
    assert run.wait() == "0:0"
    same_run(run.run, undisturbed)


@pytest.mark.slow
def test_a_warned_job_saves_requeues_itself_and_goes_on(cluster: Cluster, undisturbed: Path, tmp_path: Path) -> None:
    run = Submitted(cluster, tmp_path, *WORDS, *TWO)
    run.reach(150)
    cluster.run(*WARNED, run.job)
    assert run.wait() == "0:0"
    same_run(run.run, undisturbed)
    (stop,), (again,) = (events(run.run, kind) for kind in ("stop", "requeue"))
    assert 150 <= stop["step"] < STEPS
    assert (again["cause"], again["saved"]) == ("preempted", stop["step"])  # its time limit was far
    starts = [(start["attempt"], start["step"]) for start in events(run.run, "start")]
    assert starts == [(1, 0), (2, stop["step"])]
    assert run.output().count("rank(s) on cpu") == 2  # appended, not written anew
    assert {path.name for path in run.run.glob("logs/attempt_*/rank_*.log")} == {"rank_0.log", "rank_1.log"}


@pytest.mark.slow
def test_a_task_per_rank(cluster: Cluster, undisturbed: Path, tmp_path: Path) -> None:
    """Both ranks on one node, each in a task of its own; all tasks are warned, not only the batch script."""
    run = Submitted(cluster, tmp_path, *WORDS, *SLURM, "launcher.ranks=2", "launcher.style=rank")
    run.reach(150)
    tasks = cluster.run("squeue", "-h", "-s", "-j", run.job, "-o", "%i %A").stdout
    assert f"{run.job}.0" in tasks
    cluster.run("scancel", "--signal=USR1", f"{run.job}.0")
    assert run.wait() == "0:0"
    same_run(run.run, undisturbed)
    assert len(events(run.run, "requeue")) == 1


@pytest.mark.slow
@pytest.mark.drill
def test_a_time_limit(cluster: Cluster, tmp_path: Path) -> None:
    """Slurm itself warns; where a requeue is forbidden another job waits for the end, and goes on. Asked to stop by a
    person, that one sends the next away."""
    words = ("launcher.restart=chain", "launcher.warning_s=60", "launcher.sbatch.time=1", "train.epochs=400")
    run = Submitted(cluster, tmp_path, *WORDS, *TWO, *words)
    assert run.wait() == "75:0"  # within 30 s: so often does Slurm look
    (again,), (stop,) = (events(run.run, kind) for kind in ("requeue", "stop"))
    assert (again["cause"], again["saved"]) == ("timeout", stop["step"])
    cluster.until(lambda: len(events(run.run, "start")) == 2, "the next job goes on")
    assert events(run.run, "start")[1]["step"] == stop["step"]
    following, last = job(run)["job"], job(run)["successor"]
    assert len({run.job, following, last}) == 3
    (run.run / "STOP").touch()
    assert cluster.ended(following)["ExitCode"] == "75:0"
    assert cluster.ended(last)["JobState"] == "CANCELLED"


@pytest.mark.slow
def test_a_job_that_is_cancelled_saves_and_does_not_come_back(cluster: Cluster, tmp_path: Path) -> None:
    run = Submitted(cluster, tmp_path, *WORDS, *TWO)
    run.reach(150)
    cluster.run("scancel", "--batch", "--signal=TERM", run.job)
    cluster.run("scancel", run.job)
    run.wait()
    cluster.until(lambda: run.state() == "CANCELLED", "it is cancelled")
    assert events(run.run, "requeue") == []


@pytest.mark.slow
@pytest.mark.drill
def test_a_node_that_is_needed_is_lost(cluster: Cluster, undisturbed: Path, tmp_path: Path) -> None:
    """Its power goes; the job is queued again and goes on elsewhere."""
    apart(cluster)
    run = Submitted(cluster, tmp_path, *WORDS, *TWO, "launcher.lost_s=5")
    run.reach(150)
    cluster.off("node2")
    assert run.wait(180) == "0:0"
    same_run(run.run, undisturbed)
    assert cluster.job(run.job)["NodeList"] == "node[1,3]"


@pytest.mark.slow
@pytest.mark.drill
def test_a_node_that_is_lost_with_its_memory_costs_the_steps_since_the_newest_snapshot(
    cluster: Cluster, tmp_path: Path
) -> None:
    """The node that is left brings it to the disk before the job is queued again."""
    apart(cluster)
    words = ("strategy=fsdp", "checkpoint.every=null", "checkpoint.memory_every=5", "launcher.lost_s=5")
    whole = tmp_path / "whole"
    whole.mkdir()
    done(whole, *WORDS, *NOT_TRACKED, "strategy=fsdp", "launcher.ranks=2")
    run = Submitted(cluster, tmp_path, *WORDS, *TWO, *words)
    run.reach(150)
    newest = max(event["step"] for event in events(run.run, "snapshot"))
    cluster.off("node2")
    assert run.wait(180) == "0:0"
    (moved,) = events(run.run, "snapshot_moved")
    assert events(run.run, "start")[-1]["step"] == moved["step"] >= newest >= 100
    same_run(run.run, whole / "run")


@pytest.mark.slow
def test_the_node_of_the_batch_script_is_lost(cluster: Cluster, undisturbed: Path, tmp_path: Path) -> None:
    apart(cluster)
    run = Submitted(cluster, tmp_path, *WORDS, *TWO, "launcher.lost_s=5")
    run.reach(150)
    cluster.off("node1")
    assert run.wait(180) == "0:0"
    same_run(run.run, undisturbed)
    assert [event["cause"] for event in events(run.run, "requeue")] == ["node"]


@pytest.mark.slow
def test_a_run_goes_on_with_fewer_nodes(cluster: Cluster, tmp_path: Path) -> None:
    apart(cluster)
    words = ("launcher.nodes=1:2", "launcher.ranks=1", "launcher.lost_s=5")
    run = Submitted(cluster, tmp_path, *WORDS, *SLURM, *words)
    run.reach(150)
    cluster.off("node2")
    assert run.wait(180) == "0:0"
    assert [(start["attempt"], start["ranks"]) for start in events(run.run, "start")] == [(1, 2), (2, 1)]
    (failure,) = events(run.run, "failure")
    assert (failure["cause"], failure["host"]) == ("lost", "node2")
    assert "node2 is lost with rank 1" in failure["message"]
    assert summary(run.run)["status"] == "done"


@pytest.mark.slow
def test_a_ghost_writes_nothing(cluster: Cluster, tmp_path: Path) -> None:
    """The node is cut off: its run goes on there while Slurm starts the job again elsewhere, and ends when it sees that
    it is no longer the one."""
    apart(cluster)
    run = Submitted(cluster, tmp_path, *WORDS, *SLURM, "launcher.ranks=2", "train.epochs=4000")
    run.reach(20)
    cluster.cut("node1")
    cluster.until(lambda: len(events(run.run, "start")) == 2, "the job runs again", 120)
    second = events(run.run, "start")[1]["step"]
    assert f"the run was taken over by job {run.job}.1; job {run.job}.0 writes no more" in run.output()
    assert second > 100  # the ghost was still writing when Slurm had given it up
    run.reach(second + 100)
    (run.run / "STOP").touch()
    assert run.wait() == "75:0"
    steps = [row["step"] for row in curve(run.run)]
    assert steps == [*range(steps[-1] + 1)]
    audit = done(run.run.parent, "audit", str(run.run))
    assert audit.count("ok: ") >= 4


@pytest.mark.slow
@pytest.mark.drill
def test_preemption(cluster: Cluster, undisturbed: Path, tmp_path: Path) -> None:
    run = Submitted(cluster, tmp_path, *WORDS, *TWO, "launcher.sbatch.partition=spot")
    run.reach(150)
    urgent = cluster.run(
        "sbatch", "--parsable", "-p", "urgent", "-N3", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1"
    ).stdout
    assert run.wait(180) == "0:0"
    cluster.ended(urgent.strip())
    same_run(run.run, undisturbed)
    (again,) = events(run.run, "requeue")
    assert again["cause"] == "preempted"


def job(run: Submitted) -> dict[str, Any]:
    return dict(json.loads((run.run / "job.json").read_text()))


def apart(cluster: Cluster) -> None:
    if not cluster.apart:
        pytest.skip("nodes are machines of their own for root only")
