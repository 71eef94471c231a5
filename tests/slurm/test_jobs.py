"""What becomes of a run in a real Slurm: it ends as an undisturbed one on one machine, whatever happens to its job."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.command import NOT_TRACKED, curve, done, events, summary, trained, weights
from tests.slurm.cluster import Cluster
from tests.slurm.runs import STEPS, TWO, WORDS, Submitted

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
