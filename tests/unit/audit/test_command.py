"""What the command says, and its exit code."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from trainkit.cli.main import main

Capture = pytest.CaptureFixture[str]


def test_all_that_holds_is_said_and_where_the_time_went(run: Path, capsys: Capture) -> None:
    assert main(["audit", str(run)]) == 0
    out = capsys.readouterr().out
    for what, told in {"metrics.jsonl": "ok: steps 1 to 24", "samples": "ok: 96 in", "tracker": "not checked"}.items():
        assert f"  {what:<16}{told}" in out
    assert "goodput " in out and "lost work" in out


def test_what_does_not_hold_is_exit_code_1_and_every_run_is_looked_at(run: Path, capsys: Capture) -> None:
    good = shutil.copytree(run, run.parent / "good")
    (run / "checkpoints/step_20/trainer.json").unlink()
    assert main(["audit", str(run), str(good)]) == 1
    out = capsys.readouterr().out
    assert "checkpoints     FAULT: step 20 is damaged" in out
    assert "checkpoints     ok" in out.split(str(good))[1]


def test_a_run_that_has_not_begun_to_train_has_nothing_to_check(run: Path, capsys: Capture) -> None:
    (run / "events.jsonl").unlink()
    assert main(["audit", str(run)]) == 0
    assert "training has not begun" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"), [([], "the command is: audit RUN"), (["nowhere"], "nowhere is no run folder")]
)
def test_what_is_no_run_is_refused(words: list[str], told: str, capsys: Capture) -> None:
    assert main(["audit", *words]) == 2
    assert told in capsys.readouterr().err
