"""The journals of a run folder: whatever a crash leaves of one, its whole rows are read and the next row is whole."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from trainkit.runfolder import (
    RunFolder,
    append_line,
    drop_torn_line,
    last_line,
    read_lines,
    replace_text,
    truncate_after,
)


def steps(path: Path) -> list[int]:
    return [row["step"] for row in read_lines(path)]


def journal(path: Path, *numbers: int, torn: str = "") -> Path:
    for number in numbers:
        append_line(path, {"step": number})
    with path.open("a") as f:
        f.write(torn)
    return path


def test_a_journal_that_is_not_there_has_no_rows(tmp_path: Path) -> None:
    assert steps(tmp_path / "none.jsonl") == []
    truncate_after(tmp_path / "none.jsonl", 3)
    drop_torn_line(tmp_path / "none.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_half_a_row_is_no_row(tmp_path: Path) -> None:
    assert steps(journal(tmp_path / "j.jsonl", 1, 2, torn='{"step":3')) == [1, 2]


def test_after_half_a_row_the_next_one_is_whole(tmp_path: Path) -> None:
    path = journal(tmp_path / "j.jsonl", 1, torn='{"step":2')
    drop_torn_line(path)
    append_line(path, {"step": 3})
    assert steps(path) == [1, 3]
    drop_torn_line(path)
    assert steps(path) == [1, 3]


@pytest.mark.parametrize("size", [1, 4096, 5000, 100_000])
def test_the_newest_row_is_read_however_long_it_is(size: int, tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    assert last_line(path) is None
    path.write_text('{"half')
    assert last_line(path) is None
    path.unlink()
    for number in range(3):
        append_line(path, {"step": number, "long": size * "x"})
        assert last_line(path) == {"step": number, "long": size * "x"}
    journal(path, torn=size * "y")
    assert last_line(path) == {"step": 2, "long": size * "x"}


def test_a_row_of_which_a_full_disk_takes_half_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux writes what fits, and reports no error before the next call."""
    path, whole = journal(tmp_path / "j.jsonl", 1), os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: whole(fd, data[: len(data) // 2]))
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            append_line(path, {"step": 2})
    assert steps(journal(path, 3)) == [1, 3]


def test_a_text_that_a_full_disk_does_not_take_leaves_the_old_one_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "summary.json"
    replace_text(path, "old")

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        replace_text(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]


@pytest.mark.parametrize(("kept", "left"), [(-1, []), (2, [0, 1, 2]), (9, [0, 1, 2, 3, 4])])
def test_rows_of_a_lost_attempt_go_with_the_torn_one(kept: int, left: list[int], tmp_path: Path) -> None:
    path = journal(tmp_path / "j.jsonl", 0, 1, 2, 3, 4, torn='{"st')
    truncate_after(path, kept)
    assert steps(journal(path, 7)) == [*left, 7]


def test_the_text_that_is_replaced_stays_whole_for_who_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    replace_text(path, "old")
    with path.open() as reading:
        replace_text(path, "new")
        assert reading.read() == "old"
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]


def test_rows_of_several_writers_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"

    def write(number: int) -> None:
        for _ in range(50):
            append_line(path, {"step": number, "padding": "x" * 5000})

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(steps(path)) == [number for number in range(4) for _ in range(50)]


def test_attempts_count_on_by_number_and_not_by_name(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.next_attempt() == 1
    for name in ("attempt_2", "attempt_10", "attempt_old", "notes"):
        (tmp_path / "logs" / name).mkdir(parents=True)
    assert folder.next_attempt() == 11
