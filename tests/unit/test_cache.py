"""What is made once appears whole or not at all."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from trainkit.cache import cache_folder, made_once


def write(folder: Path) -> None:
    (folder / "file").write_text("whole")


def test_it_is_made_once(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(folder: Path) -> None:
        made.append(folder)
        write(folder)

    for _ in range(2):
        assert (made_once(tmp_path / "deep" / "thing", make) / "file").read_text() == "whole"
    assert len(made) == 1


def test_half_a_folder_is_never_seen_and_is_made_anew(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        write(folder)
        (folder / "half").write_text("")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        made_once(tmp_path / "thing", fail)
    assert not (tmp_path / "thing").exists()
    made_once(tmp_path / "thing", write)
    assert [path.name for path in (tmp_path / "thing").iterdir()] == ["file"]


def test_a_second_one_waits_for_the_first(tmp_path: Path) -> None:
    begun, go_on, made = threading.Event(), threading.Event(), list[str]()

    def make(name: str) -> None:
        def write_slowly(folder: Path) -> None:
            made.append(name)
            begun.set()
            go_on.wait(10)
            write(folder)

        made_once(tmp_path / "thing", write_slowly)

    threads = [threading.Thread(target=make, args=(name,)) for name in "ab"]
    threads[0].start()
    assert begun.wait(10)
    threads[1].start()
    go_on.set()
    for thread in threads:
        thread.join()
    assert made == ["a"]
    assert (tmp_path / "thing" / "file").exists()


def test_the_place_is_chosen_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("TRAINKIT_CACHE", raising=False)
    assert cache_folder() == tmp_path / "xdg" / "trainkit"
    monkeypatch.setenv("TRAINKIT_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    assert cache_folder().is_dir()
