"""kill -9, as the out-of-memory killer does it, at a step that the test has seen: nothing is left behind, the failure
is told, and the run goes on to the bit: by itself where a rank is gone, with the same command where more is."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

from tests.e2e.command import NOT_TRACKED, STEPS, TWO, WORDS, Running, done, events, saved, summary, until
from tests.e2e.test_interruption import mlflow_runs, same_run

KILLED_AT = 150  # there is one checkpoint by then, of step 100
COMMAND = (*WORDS, *NOT_TRACKED, *TWO)


def goes_on(running: Running, undisturbed: Path) -> None:
    done(running.run.parent, *COMMAND)
    starts = [event["step"] for event in events(running.run, "start")]
    assert starts[0] == 0
    assert 100 <= starts[1] < STEPS
    same_run(running.run, undisturbed)


def test_a_rank(undisturbed: Callable[[int], Path], tmp_path: Path) -> None:
    """The run restarts by itself from the newest checkpoint, and MLflow sees one run and every step once."""
    running = Running(tmp_path, *WORDS, *TWO)
    running.reach(KILLED_AT)
    agent, ranks = running.processes()
    assert set(running.left_behind()) == {agent, *ranks}  # or its emptiness below would say nothing
    ranks[1].kill()
    until(lambda: len(events(running.run, "start")) == 2, lambda: running.front.poll() is None)
    again, others = running.processes()
    assert again == agent
    assert not {*others} & {*ranks}
    assert running.wait() == 0
    assert running.left_behind() == []
    (failure,), (restart,) = (events(running.run, kind) for kind in ("failure", "restart"))
    assert (failure["rank"], failure["attempt"], failure["cause"]) == (1, 1, "killed")
    assert "rank 1 was killed by SIGKILL" in failure["message"]
    assert failure["message"] in running.said.read_text()
    assert Path(failure["log"]).is_file()
    assert 100 <= restart["step"] <= failure["step"]
    starts = [(event["attempt"], event["step"]) for event in events(running.run, "start")]
    assert starts == [(1, 0), (restart["attempt"], restart["step"])]
    assert restart["attempt"] == 2
    assert (summary(running.run)["status"], summary(running.run)["attempts"]) == ("done", 2)
    same_run(running.run, undisturbed(2))
    ((status, steps),) = mlflow_runs(tmp_path).values()
    assert (status, steps) == ("FINISHED", list(range(1, STEPS + 1)))


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
