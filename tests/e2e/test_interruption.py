"""Asked to stop: a checkpoint, exit code 75, and the same command goes on to the bit."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.e2e.command import (
    NOT_TRACKED,
    STEPS,
    TWO,
    WORDS,
    Running,
    Terminal,
    curve,
    done,
    events,
    saved,
    summary,
    trained,
    weights,
)

STOPPED = 75
TYPED_CTRL_C = b"\x03"


def same_run(run: Path, undisturbed: Path) -> None:
    """The rows, the trained samples and the weights of both are the same, bit by bit."""
    assert curve(run) == curve(undisturbed)
    assert trained(run) == trained(undisturbed)
    assert weights(run) == weights(undisturbed)


def mlflow_runs(folder: Path) -> dict[str, tuple[str, list[int]]]:
    """Status and logged steps of the loss, by run id, as MLflow itself reports them."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    found = client.search_runs([e.experiment_id for e in client.search_experiments()])
    return {
        run.info.run_id: (
            run.info.status,
            [metric.step for metric in client.get_metric_history(run.info.run_id, "loss")],
        )
        for run in found
    }


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=(pytest.mark.slow, pytest.mark.drill))])
def test_sigterm_saves_and_the_same_command_goes_on(
    undisturbed: Callable[[int], Path], tmp_path: Path, ranks: int
) -> None:
    words = (*WORDS, *(TWO if ranks == 2 else ()))
    first = Running(tmp_path, *words)
    first.reach(150)
    first.processes()
    first.front.send_signal(signal.SIGTERM)
    assert first.wait() == STOPPED
    assert first.left_behind() == []
    (stop,) = events(first.run, "stop")
    assert 150 <= stop["step"] < STEPS
    assert saved(first.run)[-1] == stop["step"] == summary(first.run)["step"]
    assert summary(first.run)["status"] == "stopped"
    assert f"python -m trainkit {' '.join(words[: -1 if ranks == 1 else -3])}" in first.said.read_text()
    ((run_id, (status, steps)),) = mlflow_runs(tmp_path).items()
    assert (status, steps[-1]) == ("KILLED", stop["step"])

    done(tmp_path, *words)
    same_run(first.run, undisturbed(ranks))
    assert [event["step"] for event in events(first.run, "start")] == [0, stop["step"]]
    assert mlflow_runs(tmp_path) == {run_id: ("FINISHED", list(range(1, STEPS + 1)))}


def test_ctrl_c_saves_and_the_command_that_is_printed_goes_on(
    undisturbed: Callable[[int], Path], tmp_path: Path
) -> None:
    terminal = Terminal(tmp_path, *WORDS, *NOT_TRACKED)
    terminal.reach(150)
    terminal.type(TYPED_CTRL_C)
    assert terminal.wait() == STOPPED
    assert "stopping: saving a checkpoint (once more to end at once)" in terminal.text
    command = terminal.text.splitlines()[-1].split()
    assert command[:3] == ["python", "-m", "trainkit"]
    done(tmp_path, *command[3:])
    same_run(terminal.run, undisturbed(1))


def test_a_second_ctrl_c_ends_at_once(undisturbed: Callable[[int], Path], tmp_path: Path) -> None:
    """The rank is held still, so that it cannot save after the first one."""
    terminal = Terminal(tmp_path, *WORDS, *NOT_TRACKED)
    terminal.reach(150)
    everyone = psutil.Process(terminal.front).children(recursive=True)
    [process for process in everyone if process.nice() == 0][-1].suspend()  # the others try imports out, see _warm.py
    terminal.type(TYPED_CTRL_C)
    terminal.see("stopping: saving")
    terminal.type(TYPED_CTRL_C)
    assert terminal.wait() == 1
    assert "ending at once" in terminal.text
    assert [p for p in everyone if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
    assert events(terminal.run, "stop") == events(terminal.run, "failure") == []
    assert summary(terminal.run)["status"] == "killed"
    done(tmp_path, *WORDS, *NOT_TRACKED)
    same_run(terminal.run, undisturbed(1))


@pytest.mark.slow
def test_a_closed_terminal_does_not_end_the_run(undisturbed: Callable[[int], Path], tmp_path: Path) -> None:
    """The kernel sends SIGHUP to the front, and every later write to the terminal fails."""
    terminal = Terminal(tmp_path, *WORDS, *NOT_TRACKED)
    terminal.reach(50)
    terminal.close()
    assert terminal.wait(shown=False) == 0
    same_run(terminal.run, undisturbed(1))
    assert len(events(terminal.run, "start")) == 1
