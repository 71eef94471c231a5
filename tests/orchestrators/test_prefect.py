"""The flow in a real Prefect, which brings up its own server for it."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.e2e.command import PATIENCE_S, ROOT, events, last_step, summary, until
from tests.orchestrators.own import WORDS, around, program, recipe_of_ones_own


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    recipe_of_ones_own(tmp_path)
    return tmp_path


def started(folder: Path, words: Sequence[str]) -> subprocess.Popen[bytes]:
    """A run of the flow, its log in the file `said`."""
    command = [program("prefect", "python"), str(ROOT / "launch/prefect_flow.py"), str(folder / "run"), *words]
    own = {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90"}
    with (folder / "said").open("wb") as out:
        return subprocess.Popen(command, cwd=folder, env=around(folder) | own, stdout=out, stderr=subprocess.STDOUT)


@pytest.mark.slow
def test_a_run_that_fails_is_tried_again_and_goes_on_from_its_checkpoint(folder: Path) -> None:
    (folder / "broken").touch()
    flow = started(folder, WORDS)
    assert flow.wait(2 * PATIENCE_S) == 0, (folder / "said").read_text()
    assert summary(folder / "run")["status"] == "done"
    assert [event["step"] for event in events(folder / "run", "start")] == [0, 11]
    said = (folder / "said").read_text()
    assert "broken in a step" in said  # what trainkit says is in the task's log
    assert "Finished in state Completed()" in said


@pytest.mark.slow
@pytest.mark.drill
def test_what_is_refused_is_not_tried_again(folder: Path) -> None:
    assert started(folder, [*WORDS, "train.stepz=1"]).wait(2 * PATIENCE_S) != 0
    said = (folder / "said").read_text()
    assert said.count("did you mean train.steps?") == 1
    assert "the run was refused" in said


@pytest.mark.slow
@pytest.mark.drill
def test_a_flow_that_is_interrupted_lets_the_run_save(folder: Path) -> None:
    flow = started(folder, [*WORDS, "train.steps=100000"])
    until(lambda: last_step(folder / "run") >= 20, lambda: flow.poll() is None)
    flow.send_signal(signal.SIGINT)
    assert flow.wait(2 * PATIENCE_S) != 0
    assert summary(folder / "run")["status"] == "stopped"
    assert len(events(folder / "run", "start")) == 1
