"""kill -9, as the out-of-memory killer does it, at a step that the test has seen: nothing is left behind, the failure
is told, and the run goes on to the bit: by itself where a rank is gone, with the same command where more is."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.e2e.command import NOT_TRACKED, STEPS, TWO, WORDS, Running, done, events, last_step, saved, summary, until
from tests.e2e.test_interruption import mlflow_runs, same_run

KILLED_AT = 150  # the checkpoint of step 100 is written by then, or being written
COMMAND = (*WORDS, *NOT_TRACKED, *TWO)


def goes_on(running: Running, undisturbed: Path) -> None:
    done(running.run.parent, *COMMAND)
    starts = [event["step"] for event in events(running.run, "start")]
    assert starts[0] == 0
    assert 100 <= starts[1] < STEPS
    same_run(running.run, undisturbed)
    audited(running.run)


def audited(run: Path) -> None:
    """Nothing is lost or doubled."""
    audit = done(run.parent, "audit", str(run))
    assert [word for word in ("attempts", "metrics.jsonl", "samples", "checkpoints") if f"{word} " not in audit] == []
    assert audit.count("ok: ") >= 4


def test_a_rank(undisturbed: Callable[[int], Path], tmp_path: Path) -> None:
    """The other one keeps the newest step, the run goes on by itself from there, and MLflow sees one run and every step
    once."""
    running = Running(tmp_path, *WORDS, *TWO)
    running.reach(KILLED_AT)
    until(lambda: 100 in saved(running.run), lambda: running.front.poll() is None)
    agent, ranks = running.processes()
    assert set(running.left_behind()) == {agent, *ranks}  # or its emptiness below would say nothing
    ranks[1].kill()
    until(lambda: len(events(running.run, "start")) == 2, lambda: running.front.poll() is None)
    again, others = running.processes()
    assert again == agent
    assert {*others} & {*ranks} == {ranks[0]}  # it stays, with all that it has
    assert running.wait() == 0
    assert running.left_behind() == []
    (failure,), (restart,) = (events(running.run, kind) for kind in ("failure", "restart"))
    assert (failure["rank"], failure["attempt"], failure["cause"]) == (1, 1, "killed")
    assert "rank 1 was killed by SIGKILL" in failure["message"]
    assert failure["message"] in running.said.read_text()
    assert Path(failure["log"]).is_file()
    assert KILLED_AT <= restart["step"] <= failure["step"] <= restart["step"] + 1
    starts = [(event["attempt"], event["step"]) for event in events(running.run, "start")]
    assert starts == [(1, 0), (restart["attempt"], restart["step"])]
    assert restart["attempt"] == 2
    assert (summary(running.run)["status"], summary(running.run)["attempts"]) == ("done", 2)
    same_run(running.run, undisturbed(2))
    audited(running.run)
    ((status, steps),) = mlflow_runs(tmp_path).values()
    assert (status, steps) == ("FINISHED", list(range(1, STEPS + 1)))


@pytest.mark.slow
def test_a_rank_of_a_run_that_has_saved_nothing(undisturbed: Callable[[int], Path], tmp_path: Path) -> None:
    """No step is lost but the one in flight, and the one that is left starts nothing anew."""
    words = ("checkpoint.every=null", *COMMAND)
    running = Running(tmp_path, *(word for word in words if word != "checkpoint.every=100"))
    running.reach(KILLED_AT)
    _, ranks = running.processes()
    ranks[1].suspend()  # the other one waits for it in a collective
    until(lambda: ranks[0].status() == psutil.STATUS_SLEEPING, lambda: running.front.poll() is None)
    made = last_step(running.run)
    ranks[1].kill()
    assert running.wait() == 0
    _, again = events(running.run, "start")
    assert (again["given_by"], again["step"]) == (0, made)
    assert [event["step"] for event in events(running.run, "save")] == [STEPS]
    same_run(running.run, undisturbed(2))
    audited(running.run)


def test_the_agent(undisturbed: Callable[[int], Path], tmp_path: Path) -> None:
    """Its ranks save before they leave, and the command does not end before they have."""
    running = Running(tmp_path, *COMMAND)
    running.reach(KILLED_AT)
    agent, ranks = running.processes()
    ranks[0].suspend()
    agent.kill()
    agent.wait()  # until the front knows of it
    ranks[0].resume()
    assert running.wait() == 1
    assert running.left_behind() == []
    (failure,) = events(running.run, "failure")
    assert failure["exit_code"] == 1
    assert "was killed by SIGKILL" in failure["message"]
    assert failure["message"] in running.said.read_text()
    (stop,), (end,) = (events(running.run, kind) for kind in ("stop", "end"))
    assert saved(running.run)[-1] == stop["step"] == end["step"]
    assert stop["time"] < end["time"]
    goes_on(running, undisturbed(2))


@pytest.mark.slow
def test_the_front(undisturbed: Callable[[int], Path], tmp_path: Path) -> None:
    """Whoever typed the command is gone; the agent sees that and lets the ranks save."""
    running = Running(tmp_path, *COMMAND)
    running.reach(KILLED_AT)
    running.processes()
    running.front.kill()
    assert running.wait() == -signal.SIGKILL
    until(lambda: running.left_behind() == [], lambda: True)
    (stop,) = events(running.run, "stop")
    assert saved(running.run)[-1] == stop["step"]
    goes_on(running, undisturbed(2))
