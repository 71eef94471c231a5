"""`mlflow sync RUN`: what a tracker that was down has missed comes from the run folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient  # before trainkit does: what it logs by then must stay off the terminal all the same

from tests.unit.cli.test_main import said
from trainkit.config import compose
from trainkit.runfolder import RunFolder, append_line

Capture = pytest.CaptureFixture[str]


def finished_run(root: Path, *words: str) -> RunFolder:
    """The folder of a run of three steps whose tracker got nothing."""
    folder = RunFolder(root)
    root.mkdir()
    folder.config.write_text(yaml.safe_dump(compose(["recipe=mine", f"run.dir={root}", *words])))
    folder.event("start", attempt=1, step=0, ranks=4)
    for step in (1, 2, 3):
        append_line(folder.metrics, {"step": step, "samples": 32 * step, "loss": 1 / step, "time": 1000.0 + step})
    folder.event("end", step=3, status="done", exit_code=0)
    return folder


def test_all_rows_and_the_end_arrive_once(project: Path, capsys: Capture) -> None:
    uri = f"sqlite:///{project}/here.db"
    folder = finished_run(project / "run", f"tracker.uri='{uri}'")
    for _ in range(2):
        assert said(capsys, "mlflow", "sync", "run").startswith(f"{folder.root}: mlflow ui")

    client = MlflowClient(uri)
    (experiment,) = [e for e in client.search_experiments() if e.name == "trainkit"]
    (run,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert run.info.status == "FINISHED"
    assert run.data.tags["ranks"] == "4"
    assert run.data.params["train.steps"] == "3"


def test_a_run_without_a_tracker_has_nothing_to_send(project: Path, capsys: Capture) -> None:
    finished_run(project / "run", "tracker=none")
    assert "tracker=none" in said(capsys, "mlflow", "sync", "run")


def test_a_run_that_never_trained_has_nothing_to_send(project: Path, capsys: Capture) -> None:
    folder = finished_run(project / "run")
    folder.events.unlink()
    assert "training has not started" in said(capsys, "mlflow", "sync", "run")


def test_a_tracker_that_is_still_down_is_an_error_and_not_a_traceback(project: Path, capsys: Capture) -> None:
    finished_run(project / "run", "tracker.uri=http://127.0.0.1:1")
    assert "the tracker did not take it" in said(capsys, "mlflow", "sync", "run", code=1)
