"""What a rank has imported is imported before the next fork, unless that could not be forked."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from trainkit.launcher._warm import note, warm_up

MODULES = {
    "warm_plain": "VALUE = 1",
    "warm_broken": "raise RuntimeError('only in a rank')",
    "warm_threads": "import threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
}


@pytest.fixture
def noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A note that is not written yet, beside modules that can be imported."""
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "modules.txt"


def warmed(noted: Path, *names: str) -> set[str]:
    """Which of MODULES are there when all is done."""
    turns = warm_up(noted)
    assert next(turns, "over") is None  # there is no note yet
    noted.write_text("\n".join(names))
    deadline = time.monotonic() + 60
    for _ in turns:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return {name for name in MODULES if name in sys.modules}


def test_what_can_be_imported_is_and_the_rest_is_passed_over(noted: Path) -> None:
    assert warmed(noted, "warm_nowhere", "warm_broken", "warm_plain", "__mp_main__") == {"warm_plain"}


def test_nothing_is_where_a_thread_would_not_survive_the_fork(noted: Path) -> None:
    assert warmed(noted, "warm_plain", "warm_threads") == set()


def test_a_rank_notes_what_it_has(tmp_path: Path) -> None:
    note(tmp_path / "modules.txt")
    assert {"sys", "pathlib", __name__} <= {*(tmp_path / "modules.txt").read_text().split("\n")}
