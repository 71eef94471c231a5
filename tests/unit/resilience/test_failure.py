"""What is reported is what ended the run, not what followed from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from trainkit.resilience import failure


def left(logs: Path, rank: int, time: float, code: int = 1) -> None:
    told = {"rank": rank, "host": "h", "time": time, "exit_code": code, "message": f"error {rank}", "traceback": ""}
    (logs / f"rank_{rank}.failure.json").write_text(json.dumps(told))


@pytest.mark.parametrize(
    ("code", "cause", "message"),
    [(-9, "killed", "rank 1 was killed by SIGKILL (out of memory?)"), (7, "raised", "rank 1 called exit(7)")],
)
def test_a_rank_that_left_no_word_is_the_cause(tmp_path: Path, code: int, cause: str, message: str) -> None:
    left(tmp_path, 0, 5.0)
    found = failure.find(tmp_path, 1, code, 38)
    assert (found.cause, found.message, found.step, found.exit_code) == (cause, message, 38, 1)
    assert found.told["log"] == str(tmp_path / "rank_1.log")


def test_a_rank_that_could_not_write_why_names_the_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=4096))
    assert failure.find(tmp_path, 1, 7, 38).message == "rank 1 called exit(7)"
    found = failure.find(tmp_path, 1, 1, 38)
    assert found.cause == "raised"
    assert found.message == f"rank 1 failed, and could not write why: the disk of {tmp_path} is full"


def test_where_none_is_to_blame_all_logs_are_named(tmp_path: Path) -> None:
    told = {"rank": None, "time": 1.0, "exit_code": 1, "message": "they differ", "cause": "corrupt"}
    (tmp_path / "rank_1.failure.json").write_text(json.dumps(told))
    found = failure.find(tmp_path, 1, 1, 3)
    assert (found.cause, found.told["rank"], found.told["log"]) == ("corrupt", None, str(tmp_path))


def test_of_several_errors_the_first_is_the_cause(tmp_path: Path) -> None:
    left(tmp_path, 0, 5.0)
    left(tmp_path, 1, 4.0, code=2)
    found = failure.find(tmp_path, 0, 1, 3)
    assert (found.cause, found.message, found.exit_code, found.told["rank"]) == ("refused", "error 1", 2, 1)
