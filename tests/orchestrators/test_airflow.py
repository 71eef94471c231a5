"""The DAG in a real Airflow."""

from __future__ import annotations

import json
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
    subprocess.run(
        [program("airflow", "airflow"), "db", "migrate"],
        cwd=tmp_path,
        env=env(tmp_path),
        check=True,
        capture_output=True,
    )
    return tmp_path


def env(folder: Path) -> dict[str, str]:
    own = {"AIRFLOW_HOME": str(folder / "airflow"), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    return around(folder) | own | {"AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "launch")}


def triggered(folder: Path, words: Sequence[str]) -> subprocess.Popen[bytes]:
    """A run of the DAG, its log in the file `said`."""
    conf = json.dumps({"words": [*words], "run_dir": str(folder / "run")})
    command = [program("airflow", "airflow"), "dags", "test", "trainkit", "--conf", conf]
    with (folder / "said").open("wb") as out:
        return subprocess.Popen(command, cwd=folder, env=env(folder), stdout=out, stderr=subprocess.STDOUT)


@pytest.mark.drill
@pytest.mark.slow
def test_a_run_that_fails_is_tried_again_and_goes_on_from_its_checkpoint(folder: Path) -> None:
    (folder / "broken").touch()
    dag = triggered(folder, WORDS)
    assert dag.wait(2 * PATIENCE_S) == 0, (folder / "said").read_text()
    assert summary(folder / "run")["status"] == "done"
    assert [event["step"] for event in events(folder / "run", "start")] == [0, 11]
    said = (folder / "said").read_text()
    assert "broken in a step" in said  # what trainkit says is in the task's log
    assert "new_state=success" in said


@pytest.mark.slow
@pytest.mark.drill
def test_what_is_refused_is_not_tried_again(folder: Path) -> None:
    assert triggered(folder, [*WORDS, "train.stepz=1"]).wait(2 * PATIENCE_S) != 0
    said = (folder / "said").read_text()
    assert said.count("did you mean train.steps?") == 1
    assert "the run was refused" in said


@pytest.mark.slow
@pytest.mark.drill
def test_a_task_that_is_killed_lets_the_run_save(folder: Path) -> None:
    dag = triggered(folder, [*WORDS, "train.steps=100000"])
    until(lambda: last_step(folder / "run") >= 20, lambda: dag.poll() is None)
    dag.send_signal(signal.SIGTERM)
    assert dag.wait(2 * PATIENCE_S) != 0
    assert summary(folder / "run")["status"] == "stopped"
    assert len(events(folder / "run", "start")) == 1
