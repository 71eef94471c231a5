"""What a rank has imported is imported before the next fork, unless that could not be forked."""

from __future__ import annotations

import sys
import time
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from tests.unit.conftest import until
from trainkit.launcher._ranks import Ranks
from trainkit.launcher._warm import WarmUp, note

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
    warm_up = WarmUp(noted)
    assert warm_up.turn()  # there is no note yet
    noted.write_text("\n".join(names))
    deadline = time.monotonic() + 60
    while warm_up.turn():
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


def swept_meanwhile(noted: Path, end: Connection) -> None:
    """What a rank that has died leaves is ended at every turn."""
    ranks = Ranks(lambda post: "done", spares=0, noted=noted)

    def imported() -> bool:
        ranks.warm_up()
        ranks.sweep()
        return "warm_plain" in sys.modules

    until(imported, "it is imported", 30)
    end.send("imported")


def test_it_goes_on_when_a_rank_dies_meanwhile(noted: Path) -> None:
    noted.write_text("warm_plain")
    ours, theirs = Pipe()
    process = get_context("fork").Process(target=swept_meanwhile, args=(noted, theirs))
    process.start()
    theirs.close()
    assert ours.recv() == "imported"
    process.join()
