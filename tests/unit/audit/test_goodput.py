"""Where the time went, for runs of which every second is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from trainkit.audit.goodput import Goodput, goodput, over_time
from trainkit.audit.journal import Journal
from trainkit.runfolder import RunFolder, append_line


def made(root: Path, events: list[dict[str, Any]], rows: list[dict[str, Any]]) -> Goodput:
    folder = RunFolder(root)
    folder.config.write_text(yaml.safe_dump({"checkpoint": {"dir": None}}))
    for event in events:
        append_line(folder.events, event)
    for row in rows:
        append_line(folder.metrics, row)
    return goodput(Journal(folder))


def launch(time: float, attempt: int = 1) -> dict[str, Any]:
    return {"event": "launch", "time": time, "attempt": attempt}


def start(time: float, step: int = 0) -> dict[str, Any]:
    return {"event": "start", "time": time, "step": step}


def save(time: float, step: int, seconds: float = 2.0, stall: float = 0.5) -> dict[str, Any]:
    return {"event": "save", "time": time, "step": step, "seconds": seconds, "stall": stall}


def row(time: float, step: int, **more: float) -> dict[str, Any]:
    return {"time": time, "step": step, "samples": step, **more}


def test_one_attempt(tmp_path: Path) -> None:
    """8 s of coming up, 100 s of steps with 10 s for evaluation, 4 s without data, 1 s of stalls, 5 s of export."""
    parts = made(
        tmp_path,
        [launch(0), start(8), save(60, 5), save(108, 10), {"event": "end", "time": 113, "status": "done"}],
        [row(18, 0, evaluation_seconds=10), row(58, 5, data_wait=1), row(106, 10, data_wait=3)],
    )
    stop = 108 - 2 + 0.5  # when the loop went on after its last save
    assert parts.start_up == pytest.approx(8 + 113 - stop)
    assert (parts.evaluation, parts.data_wait, parts.stall) == (10, 4, 1)
    assert parts.training == pytest.approx(stop - 8 - 15)
    assert (parts.lost, parts.down) == (0, 0)
    assert parts.wall == pytest.approx(113)


def test_what_a_lost_attempt_trained_after_its_save_is_lost(tmp_path: Path) -> None:
    events = [launch(0), start(10), save(50, 4), {"event": "failure", "time": 90}]
    events += [launch(95, 2), start(105, 4), {"event": "end", "time": 165, "status": "done"}]
    parts = made(tmp_path, events, [row(40, 4), row(165, 10)])
    assert parts.lost == pytest.approx(90 - (50 - 2 + 0.5))
    assert parts.down == pytest.approx(5)
    assert parts.start_up == pytest.approx(10 + 10)
    assert parts.training == pytest.approx((48.5 - 10 - 0.5) + 60)
    assert parts.wall == pytest.approx(165)


def test_a_snapshot_in_memory_counts_as_a_save(tmp_path: Path) -> None:
    kept = save(80, 7, 1, 0.25) | {"event": "snapshot"}
    events = [launch(0), start(10), save(50, 4), kept, {"event": "failure", "time": 90}]
    events += [launch(95, 2), start(105, 7), {"event": "end", "time": 165, "status": "done"}]
    parts = made(tmp_path, events, [row(40, 4), row(78, 7), row(165, 10)])
    assert parts.lost == pytest.approx(90 - (80 - 1 + 0.25))
    assert parts.stall == pytest.approx(0.5 + 0.25)


def test_what_was_saved_because_the_attempt_broke_is_not_lost(tmp_path: Path) -> None:
    rescued = save(60, 7, 1, 1) | {"rescued_by": 1}
    events = [launch(0), start(10), save(50, 4), rescued, {"event": "failure", "time": 70}]
    events += [launch(72, 2), start(80, 7), {"event": "end", "time": 90, "status": "done"}]
    parts = made(tmp_path, events, [row(40, 4), row(58, 7), row(90, 10)])
    assert (parts.lost, parts.down) == (0, pytest.approx(12))
    assert parts.training == pytest.approx(60 - 10 - 1.5 + 10)


def test_an_attempt_that_was_stopped_lost_nothing(tmp_path: Path) -> None:
    events = [launch(0), start(10), save(50, 4), {"event": "stop", "time": 50, "step": 4}]
    events += [{"event": "end", "time": 51, "status": "stopped"}, launch(500, 2), start(505, 4), save(600, 9)]
    parts = made(tmp_path, events, [row(47, 4), row(590, 9)])
    assert parts.lost == 0
    assert parts.down == pytest.approx(449)
    assert parts.wall == pytest.approx(600)


def test_an_attempt_without_any_save_is_lost_as_a_whole(tmp_path: Path) -> None:
    events = [launch(0), start(10), {"event": "failure", "time": 30}, launch(31, 2), start(40)]
    parts = made(tmp_path, [*events, {"event": "end", "time": 90, "status": "done"}], [row(85, 9)])
    assert parts.lost == pytest.approx(20)
    assert parts.training == pytest.approx(45)


def test_what_a_run_trained_before_it_went_back_by_itself_is_lost(tmp_path: Path) -> None:
    events = [launch(0), start(10), save(50, 4, 2, 1), {"event": "rollback", "time": 80, "to": 4}]
    # Killed afterwards, with no newer save: what is lost begins at the same save and is counted once.
    events += [{"event": "failure", "time": 100}, launch(100, 2), start(110, 4), {"event": "end", "time": 130}]
    parts = made(tmp_path, events, [row(40, 4), row(130, 9)])
    assert parts.lost == pytest.approx(100 - 49)
    assert parts.wall == pytest.approx(130)


def test_an_attempt_that_never_trained_only_started_up(tmp_path: Path) -> None:
    events = [launch(0), {"event": "failure", "time": 12}, launch(20, 2), start(30), {"event": "end", "time": 50}]
    parts = made(tmp_path, events, [row(50, 3)])
    assert parts.start_up == pytest.approx(12 + 10)
    assert parts.down == pytest.approx(8)
    assert parts.training == pytest.approx(20)


def test_over_time_it_comes_to_the_same(tmp_path: Path) -> None:
    """At the last row of a run that ends with it: saves, evaluation, lost work and the time between attempts count."""
    events = [launch(0), start(10), save(50, 4), {"event": "failure", "time": 90}]
    events += [launch(95, 2), start(105, 4), {"event": "end", "time": 165, "status": "done"}]
    rows = [row(20, 1, evaluation_seconds=3), row(40, 4), row(120, 6, data_wait=2), row(165, 10)]
    parts = made(tmp_path, events, rows)
    shares = over_time(Journal(RunFolder(tmp_path)))
    assert [at for at, _ in shares] == [20, 40, 120, 165]
    assert shares[0][1] == pytest.approx((20 - 10 - 3) / 20)
    assert shares[2][1] == pytest.approx((7 + 20 + 120 - 105 - 2) / 120)
    # The 8.5 s from the last row to the save, and the stall in them, are told by no row of the first attempt.
    assert shares[-1][1] * 165 == pytest.approx(parts.training - 8)


def test_over_time_what_a_run_went_back_behind_is_lost(tmp_path: Path) -> None:
    events = [launch(0), start(10), save(50, 4, 2, 1), {"event": "rollback", "time": 80, "to": 4}]
    made(tmp_path, [*events, {"event": "end", "time": 100}], [row(40, 4), row(100, 6)])
    assert over_time(Journal(RunFolder(tmp_path)))[-1] == (100, pytest.approx((30 + 60 - 31 - 1) / 100))
