"""launcher=mpi under a real mpirun (Open MPI): a task per rank, all on this machine."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import psutil
import pytest

from tests.e2e.command import TRAINKIT, events, trainkit
from tests.multinode.hosts import Command, until
from tests.multinode.runs import WORDS, reach, same_run, whole

LONG = ("train.epochs=400",)
PATIENT = ("--mca", "odls_base_sigkill_timeout", "8")  # which it waits to the end, twice
pytestmark = pytest.mark.skipif(
    shutil.which("mpirun") is None, reason="there is no mpirun: apt-get install openmpi-bin"
)


def begin(folder: Path, *words: str, options: tuple[str, ...] = ()) -> Command:
    start = ("mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", "2", *options)
    return Command([*start, *TRAINKIT, *WORDS, "launcher=mpi", "launcher.lost_s=5", *words], folder, TERM="dumb")


def task(command: Command, number: int) -> psutil.Process:
    """One of mpirun's."""
    tasks = psutil.Process(command.process.pid).children()
    (found,) = [task for task in tasks if task.environ().get("OMPI_COMM_WORLD_RANK") == str(number)]
    return found


def rank(command: Command, number: int) -> psutil.Process:
    """The rank that a task but the first keeps, which it has forked."""
    return next(child for child in task(command, number).children() if child.nice() == 0)


@pytest.mark.slow
def test_a_run_is_the_same_under_mpirun(undisturbed: Path, tmp_path: Path) -> None:
    """Also when a rank is killed on the way."""
    command = begin(tmp_path)
    reach(tmp_path / "run", 60)
    rank(command, 1).kill()
    assert command.wait() == 0, command.said
    same_run(tmp_path / "run", undisturbed)
    (failure,) = events(tmp_path / "run", "failure")
    assert (failure["cause"], failure["rank"]) == ("killed", 1)
    assert [start["ranks"] for start in events(tmp_path / "run", "start")] == [2, 2]


@pytest.mark.drill
@pytest.mark.slow
def test_mpirun_is_asked_to_stop(tmp_path: Path) -> None:
    """By a signal that it passes on, and by one that ends it, with time to save."""
    run = tmp_path / "run"
    for number, step, options in ((signal.SIGUSR1, 20, ()), (signal.SIGTERM, 40, PATIENT)):
        command = begin(tmp_path, *LONG, options=options)
        reach(run, step)
        command.process.send_signal(number)
        code = command.wait()
        assert code == (75 if number == signal.SIGUSR1 else 1), command.said  # mpirun's own, where it is ended
        until(lambda: (run / "summary.json").exists(), "it says how it ended")
        assert events(run, "end")[-1]["status"] == "stopped", command.said
        assert events(run, "stop")[-1]["step"] >= step


@pytest.mark.slow
def test_a_task_is_killed_and_the_run_goes_on_without(tmp_path: Path) -> None:
    """Where mpirun lets the others live."""
    command = begin(tmp_path, "launcher.ranks=1:2", options=("--enable-recovery",))
    reach(tmp_path / "run", 60)
    task(command, 1).kill()
    command.wait()
    whole(tmp_path / "run")
    assert [start["ranks"] for start in events(tmp_path / "run", "start")] == [2, 1]
    (failure,) = events(tmp_path / "run", "failure")
    assert failure["cause"] == "lost"


@pytest.mark.slow
@pytest.mark.drill
def test_a_task_is_killed_and_the_others_save(tmp_path: Path) -> None:
    """Where mpirun ends them all, and gives them time."""
    command = begin(tmp_path, *LONG, "checkpoint.every=null", options=PATIENT)
    reach(tmp_path / "run", 60)
    task(command, 1).kill()
    assert command.wait() != 0
    assert events(tmp_path / "run", "save")[-1]["step"] >= 60, command.said


def test_without_mpirun_it_is_refused(tmp_path: Path) -> None:
    alone = trainkit(tmp_path, *WORDS, "launcher=mpi")
    assert alone.returncode == 2
    assert "launcher=mpi: no mpirun has started this" in alone.stderr
    assert not (tmp_path / "run").exists()
