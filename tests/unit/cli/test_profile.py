"""What `profile` refuses, before anything is started or written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.conftest import write
from trainkit.cli.main import main


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "1 problem"),
        (["recipe=mine", "--steps", "0"], "--steps=0: should be a whole number from 1 on"),
        (["recipe=mine", "--ranks=1"], "--ranks=1: should be 0 | all"),
        (["recipe=mine", "--stpes", "3"], "did you mean --steps?"),
        (["recipe=mine", "--to", "."], "--to=.: is a folder"),
        (["recipe=mine", "--to", "no/trace.json"], "there is no folder"),
        (["recipe=mine", "run.dir=old"], "has something in it, and a profile is a run of its own"),
        (["recipe=mine", "train.stesp=1"], "train.stesp=1: there is no such key"),
    ],
)
def test_what_is_wrong_is_told(words: list[str], told: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(project / "old/notes", "")
    before = sorted(path for path in project.rglob("*") if "__pycache__" not in path.parts)
    assert main(["profile", *words]) == 2
    assert told in capsys.readouterr().err
    assert sorted(path for path in project.rglob("*") if "__pycache__" not in path.parts) == before
