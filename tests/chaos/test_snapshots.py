"""checkpoint.memory_every with real ranks that are killed: the run goes on from memory, makes no more steps again than
that says, ends with the weights of an undisturbed run, and leaves nothing behind in memory."""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path

import psutil
import pytest

from tests.chaos.project import WORDS, made
from tests.chaos.test_storm import nothing_is_left, shared_memory
from tests.e2e import command
from tests.e2e.command import Running, curve, done, events, last_step, saved, trained, until, weights
from tests.e2e.conftest import nothing_outlives_its_test

__all__ = ["nothing_outlives_its_test", "shared_memory"]
pytestmark = pytest.mark.slow
STEPS = 30
FIRST, SECOND = 8, 17  # steps between two saves to the disk in which ranks are killed
SAVED = 12


def words(strategy: str, every: int = 1) -> tuple[str, ...]:
    keys = (f"strategy={strategy}", f"train.steps={STEPS}", f"checkpoint.every={SAVED}")
    return (*WORDS, *keys, f"checkpoint.memory_every={every}")


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The run folder of an undisturbed run without snapshots."""

    @cache
    def run(strategy: str) -> Path:
        folder = made(tmp_path_factory.mktemp(strategy))
        done(folder, *words(strategy)[:-1])
        return folder / "run"

    return run


def slowly(folder: Path) -> Path:
    """The project, with steps that take longer than it takes to write a snapshot."""
    recipe = made(folder) / "recipes/chaos.py"
    recipe.write_text(recipe.read_text().replace("time.sleep(0.01)", "time.sleep(0.2)"))
    return folder


def newest(run: Path) -> int:
    """The step of the newest snapshot that is told."""
    return max((event["step"] for event in events(run, "snapshot")), default=0)


def held(running: Running, step: int, every: int) -> tuple[psutil.Process, list[psutil.Process]]:
    """Its processes, stopped after `step`, when the snapshot that is due by then is written."""
    running.reach(step)
    until(lambda: last_step(running.run) - newest(running.run) < every, lambda: running.front.poll() is None)
    agent, ranks = running.processes()
    for rank in ranks:
        rank.suspend()
    return agent, ranks


def killed(running: Running, step: int, every: int, dead: slice) -> None:
    """Kill these ranks after `step`; the run goes on by itself, and makes no more than `every` steps again."""
    _, ranks = held(running, step, every)
    before = len(events(running.run, "start"))
    reached, kept = last_step(running.run), newest(running.run)
    for rank in ranks[dead]:
        rank.kill()
    for rank in ranks:
        if rank.is_running() and rank not in ranks[dead]:
            rank.resume()
    until(lambda: len(events(running.run, "start")) > before, lambda: running.front.poll() is None)
    start, used = events(running.run, "start")[-1], events(running.run, "snapshot_used")[-1]
    assert start["step"] == used["step"] >= kept > 0
    assert reached - start["step"] <= every
    assert start["step"] not in saved(running.run)


def as_undisturbed(running: Running, whole: Path) -> None:
    assert weights(running.run) == weights(whole)
    assert trained(running.run) == trained(whole)
    assert curve(running.run) == curve(whole)


@pytest.mark.parametrize(
    ("strategy", "every"),
    [
        ("fsdp", 1),
        *(pytest.param(name, n, marks=pytest.mark.drill) for name, n in (("zero3", 2), ("pipeline", 1), ("tensor", 2))),
    ],
)
def test_killed_ranks_cost_so_many_steps(
    strategy: str, every: int, whole: Callable[[str], Path], shared_memory: set[str], tmp_path: Path
) -> None:
    """First one of them, before there is a checkpoint on the disk; then all of them at once."""
    running = Running(slowly(tmp_path), *words(strategy, every))
    killed(running, FIRST, every, slice(1, 2))
    killed(running, SECOND, every, slice(None))
    assert running.wait() == 0, running.said.read_text()
    assert [event["cause"] for event in events(running.run, "failure")] == ["killed", "killed"]
    as_undisturbed(running, whole(strategy))
    nothing_is_left(running, shared_memory)


def test_a_command_that_is_killed_with_all_its_processes_goes_on_from_memory(
    whole: Callable[[str], Path], shared_memory: set[str], tmp_path: Path
) -> None:
    running = Running(slowly(tmp_path), *words("fsdp"))
    agent, ranks = held(running, FIRST, 1)
    reached = last_step(running.run)
    for process in (psutil.Process(running.front.pid), agent, *ranks):
        process.kill()
    assert running.wait() == -signal.SIGKILL
    until(lambda: running.left_behind() == [], lambda: True)
    again = Running(tmp_path, *words("fsdp"))
    assert again.wait() == 0, again.said.read_text()
    first, second = events(again.run, "start")
    assert (first["step"], second["from_attempt"]) == (0, 1)
    assert reached - second["step"] <= 1
    assert "going on from memory" in again.said.read_text()
    as_undisturbed(again, whole("fsdp"))
    nothing_is_left(again, shared_memory)


def test_a_run_that_is_given_up_leaves_its_newest_step_on_the_disk(
    whole: Callable[[str], Path], shared_memory: set[str], tmp_path: Path
) -> None:
    running = Running(slowly(tmp_path), *words("fsdp"), "recovery.killed=0")
    _, ranks = held(running, FIRST, 1)
    reached = last_step(running.run)
    for rank in ranks:
        rank.kill()
    assert running.wait() == 1
    (given_up,), (moved,) = (events(running.run, kind) for kind in ("give_up", "snapshot_moved"))
    assert "recovery.killed=0" in given_up["why"]
    assert reached - 1 <= moved["step"]
    assert saved(running.run) == [moved["step"]]
    assert {path.name for path in Path("/dev/shm").iterdir()} <= shared_memory
    again = Running(tmp_path, *words("fsdp"))
    assert again.wait() == 0, again.said.read_text()
    assert [event["step"] for event in events(again.run, "start")] == [0, moved["step"]]
    as_undisturbed(again, whole("fsdp"))
    nothing_is_left(again, shared_memory)


def test_a_run_that_is_stopped_gives_its_memory_back(shared_memory: set[str], tmp_path: Path) -> None:
    running = Running(slowly(tmp_path), *words("fsdp"))
    running.reach(FIRST)
    assert {path.name for path in Path("/dev/shm").iterdir()} > shared_memory
    running.processes()
    running.front.send_signal(signal.SIGTERM)
    assert running.wait() == 75
    (stop,) = events(running.run, "stop")
    assert saved(running.run) == [stop["step"]]
    nothing_is_left(running, shared_memory)


def test_where_there_is_no_room_in_memory_the_run_goes_on_without(
    whole: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A /dev/shm of its own, smaller than the state."""
    small = "mount -t tmpfs -o size=1200k tmpfs /dev/shm || { echo this test needs the right to mount; exit 9; }"
    inside = ("unshare", "--mount", "sh", "-c", f'{small}; exec "$@"', "sh", *command.TRAINKIT)
    monkeypatch.setattr(command, "TRAINKIT", inside)
    running = Running(made(tmp_path), *words("fsdp"))
    assert running.wait() == 0, running.said.read_text()
    (failed,) = events(running.run, "snapshot_failed")
    assert failed["step"] == 1
    assert "the disk is full" in failed["message"]
    assert "checkpoint.memory_every=null" in failed["message"]
    assert failed["message"].splitlines()[0] in running.said.read_text()
    assert events(running.run, "snapshot") == []
    as_undisturbed(running, whole("fsdp"))
