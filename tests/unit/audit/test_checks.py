"""Each thing that an audit proves, by taking it away from a real run folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.audit.conftest import OPTIONS
from tests.unit.test_trainer import trainer
from trainkit.audit.checks import Finding, findings, tracked
from trainkit.audit.journal import Journal
from trainkit.runfolder import RunFolder, read_lines


def found(root: Path) -> dict[str, Finding]:
    return {finding.what: finding for finding in findings(Journal(RunFolder(root)))}


def test_a_run_of_which_nothing_is_missing(run: Path) -> None:
    held = found(run)
    assert {what: finding.ok for what, finding in held.items()} == dict.fromkeys(held, True)
    assert held["attempts"].detail == "1 from step 0 to 7 (stopped), 2 from step 7 to 24 (done)"
    assert held["metrics.jsonl"].detail == "steps 1 to 24: 24 rows, none missing, none twice"
    assert held["samples"].detail == "96 in 2.40 epochs, each once, of which 4 were skipped as bad"
    assert held["checkpoints"].detail.startswith("step 15, 20, 24: ")


def edit(path: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    rows = list(read_lines(path))
    change(rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def at(rows: list[dict[str, Any]], step: int) -> int:
    return next(i for i, row in enumerate(rows) if row.get("step") == step)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda rows: rows.pop(at(rows, 9)), "no row of step 9"),
        (lambda rows: rows.insert(at(rows, 9), rows[at(rows, 9)]), "more than one row of step 9"),
        (lambda rows: rows.insert(0, rows.pop(at(rows, 9))), "out of order"),
        (lambda rows: rows[at(rows, 9)].update(samples=35), "another data position than its own at step 9"),
    ],
)
def test_a_row_that_is_missing_doubled_or_displaced_is_found(change: Any, told: str, run: Path) -> None:
    edit(run / "metrics.jsonl", change)
    held = found(run)
    assert held["metrics.jsonl"].ok is False
    assert told in held["metrics.jsonl"].detail


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda rows: rows.pop(at(rows, 9)), "nothing about step 9"),
        (lambda rows: rows[at(rows, 9)]["ids"].pop(), "other samples than are due in step 9"),
        (lambda rows: rows.append(rows[at(rows, 9)]), "other samples than are due in step 9"),
        (lambda rows: rows[at(rows, 9)].update(ids=rows[at(rows, 10)]["ids"]), "other samples than are due in step 9"),
    ],
)
def test_a_sample_that_is_skipped_doubled_or_another_is_found(change: Any, told: str, run: Path) -> None:
    edit(run / "ledger/attempt_2/rank_0.jsonl", change)
    held = found(run)
    assert held["samples"].ok is False
    assert told in held["samples"].detail


def test_without_a_ledger_the_samples_are_not_said_to_be_right(run: Path) -> None:
    shutil.rmtree(run / "ledger")
    assert found(run)["samples"].ok is None


def test_a_flipped_bit_in_a_checkpoint_is_found(run: Path) -> None:
    path = run / "checkpoints/step_20/__0_0.distcp"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "step 20 is damaged: __0_0.distcp has changed" in found(run)["checkpoints"].detail


def test_a_run_that_is_done_and_has_not_saved_its_last_step_is_found(run: Path) -> None:
    shutil.rmtree(run / "checkpoints/step_24")
    assert "its last step 24 is not saved" in found(run)["checkpoints"].detail


def test_an_attempt_that_begins_where_nobody_saved_is_found(run: Path) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        next(row for row in rows if row["event"] == "start" and row["step"] == 7)["from_attempt"] = 2

    edit(run / "events.jsonl", change)
    assert "attempt 2 begins at step 7, which none before it had saved" in found(run)["attempts"].detail


def test_a_run_from_a_checkpoint_that_was_brought_along_begins_there(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run / "checkpoints/step_20", other / "checkpoints/step_20")
    shutil.copy(run / "config.yaml", other)
    folder = RunFolder(other)
    folder.event("launch", attempt=1, ranks=1)
    assert trainer(other, **OPTIONS).fit() == "done"
    assert {what: finding.ok for what, finding in found(other).items()} == dict.fromkeys(found(other), True)


def test_a_run_that_has_logged_nothing_yet_has_nothing_wrong(run: Path) -> None:
    (run / "metrics.jsonl").write_text("")
    edit(run / "events.jsonl", lambda rows: [row.update(log_every=100) for row in rows if row["event"] == "start"])
    assert found(run)["samples"].ok
    assert found(run)["metrics.jsonl"].ok


def test_a_checkpoint_without_its_manifest_is_damaged(run: Path) -> None:
    (run / "checkpoints/step_20/MANIFEST.json").unlink()
    assert "step 20 is damaged" in found(run)["checkpoints"].detail


def test_of_many_attempts_the_first_and_the_last_are_told(run: Path) -> None:
    folder = RunFolder(run)
    for attempt in range(3, 10):
        folder.event("launch", attempt=attempt, ranks=1)
    detail = found(run)["attempts"].detail
    assert detail.startswith("1 from step 0 to 7 (stopped), 2 from step 7 to 24 (done), 5 more, 8 did not start, ")


def test_two_lineages_are_found(run: Path) -> None:
    edit(run / "events.jsonl", lambda rows: rows.extend(rows[:2]))
    assert "attempt 1 follows attempt 2" in found(run)["attempts"].detail


@pytest.mark.parametrize(
    ("held", "ok", "told"),
    [
        (lambda: range(25), True, "holds 25 rows"),
        (lambda: [*range(20), *range(21, 25)], False, "lacks step 20"),
        (lambda: [*range(25), 3], False, "has step 3 more than once"),
        (lambda: None, None, "nothing is tracked"),
        (lambda: 1 // 0, None, "cannot be asked: ZeroDivisionError"),
    ],
)
def test_the_tracker_is_compared_row_by_row(held: Any, ok: bool | None, told: str, run: Path) -> None:
    finding = tracked(Journal(RunFolder(run)), held)
    assert finding.ok is ok
    assert told in finding.detail
