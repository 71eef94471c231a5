"""`promote RUN|MODEL --to ALIAS`: what it takes, and its exit codes. What it does: tests/unit/tracker."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.unit.cli.test_main import said
from tests.unit.cli.test_sync import finished_run
from trainkit.runfolder import append_line

Capture = pytest.CaptureFixture[str]


def test_a_pipeline_promotes_what_is_better_and_takes_it_back(project: Path, capsys: Capture) -> None:
    """One word each for a run, a model's candidate, and a version."""
    uri = f"sqlite:///{project}/here.db"
    for name, loss in (("good", 0.5), ("bad", 0.75), ("best", 0.25)):
        folder = finished_run(project / name, f"tracker.uri='{uri}'", "tracker.registry=digits")
        append_line(folder.metrics, {"step": 4, "samples": 128, "eval_loss": loss, "time": 1004.0})
        folder.model.mkdir()
        folder.event("end", step=4, status="done", exit_code=0)
        said(capsys, "mlflow", "sync", name)
    rule = ("--to", "champion", "--if", "eval_loss<=champion")
    assert "version 1 of digits is champion now" in said(capsys, "promote", "good", *rule)
    assert "0.75 <= 0.5 of champion (version 1) does not hold" in said(capsys, "promote", "bad", *rule, code=1)
    where = f"tracker.uri={uri}"
    assert "version 3 of digits is champion now" in said(capsys, "promote", "digits", *rule, where)
    assert "version 1 of digits is champion again" in said(capsys, "promote", "good", "--to", "champion", "--back")
    assert "version 2 of digits is champion now" in said(capsys, "promote", "digits/2", "--to=champion", where)
    assert "MLflow did not take it" in said(capsys, "promote", "digits@nobody", *rule, where, code=1)
    assert int(MlflowClient(uri).get_model_version_by_alias("digits", "champion").version) == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "the command is: promote RUN|MODEL --to ALIAS"),
        (["digits"], "the command is: promote"),
        (["digits", "--to"], "the command is: promote"),
        (["digits", "--to", "a", "--iff", "x"], "the command is: promote"),
        (["digits", "--to", "a", "--back", "--if", "x<1"], "the command is: promote"),
        (["digits", "--to", "a", "--if", "eval_loss"], "--if=eval_loss: should be a metric"),
        (["a/b", "--to", "champion"], "a/b is no run folder and no model"),
    ],
)
def test_what_is_typed_wrong(words: list[str], told: str, project: Path, capsys: Capture) -> None:
    assert told in said(capsys, "promote", *words, code=2)


def test_a_run_that_registers_nothing_is_told_how(project: Path, capsys: Capture) -> None:
    finished_run(project / "run")
    assert "tracker.registry=NAME" in said(capsys, "promote", "run", "--to", "champion", code=2)


def test_a_run_that_is_not_done_has_no_version(project: Path, capsys: Capture) -> None:
    uri = f"sqlite:///{project}/here.db"
    finished_run(project / "run", f"tracker.uri='{uri}'", "tracker.registry=digits")
    assert "has registered no version of digits" in said(capsys, "promote", "run", "--to", "champion", code=1)
