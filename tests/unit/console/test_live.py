"""What a person sees while a run goes, made from the journals alone."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest
from rich.console import Console as Rich

from tests.unit.console.runs import made, row, start, trained
from trainkit.console import Console
from trainkit.console.units import duration, quantity
from trainkit.runfolder import RunFolder, truncate_after


def console(folder: RunFolder, terminal: bool = False) -> tuple[Console, io.StringIO]:
    """A console on `folder`, and what it prints."""
    out = io.StringIO()
    return Console(folder, 1, Rich(file=out, width=200, force_terminal=terminal)), out


def test_a_run_in_plain_lines(tmp_path: Path) -> None:
    folder = made(tmp_path)
    shown, out = console(folder)
    shown.refresh()
    assert out.getvalue() == ""
    now = time.time() + 1
    start(folder)
    row(folder, 0, now, eval_loss=4.0, eval_accuracy=0.25)
    folder.event("sample", when="before", text="[bold]robots[/bold]")
    (folder.logs(1) / "rank_0.log").write_text("a line [of] the recipe\nhalf a li")
    shown.refresh()
    for step in range(1, 10):
        trained(folder, step, now + step)  # a second apart; a line is shown every five
    trained(folder, 10, now + 10, eval_loss=2.0, eval_accuracy=0.75)
    folder.event("save", step=10, path="/runs/x/step_10", seconds=1.26, bytes=3 * 2**20)
    folder.event("save_failed", step=10, message="the disk is full")
    folder.event("save_waits", step=10, behind=8)
    folder.event("copy", step=10, path="s3://b/x/step_10", seconds=2.04, bytes=3 * 2**20)
    folder.event("copy_failed", step=10, path="s3://b/x/step_10", message="no [such] bucket")
    folder.event("cadence", every_s=90.2, stall=0.1, message="a save [x] costs little")
    folder.event("stop", step=10)
    shown.close()
    steps = [line for line in out.getvalue().splitlines() if line.startswith("step ")]
    assert [line for line in out.getvalue().splitlines() if line not in steps] == [
        "a line [of] the recipe",
        "training 4.6k of 1.2M parameters, 10 steps, 2 rank(s) on cpu",
        "sample before training: [bold]robots[/bold]",
        "held-out at step 0: loss 4.0000  accuracy 0.2500",
        "saved step 10: /runs/x/step_10 (3.0 MiB in 1.3 s)",
        "not saved: the disk is full",
        "saving step 10 waits until step 8 is on the disk; a larger checkpoint.every would spare the time",
        "copied step 10: s3://b/x/step_10 (3.0 MiB in 2.0 s)",
        "not copied: s3://b/x/step_10: no [such] bucket",
        "saving every 1 min 30 s: a save [x] costs little",
        "stopped at step 10",
        "held-out at step 10: loss 2.0000  accuracy 0.7500  (loss at the start 4.0000)",
    ]
    assert [line.split("  ")[0] for line in steps] == ["step 1/10", "step 6/10", "step 10/10"]
    assert "loss 4.0000  lr 1.0e-03  1.0k tok/s  0.5 GiB" in steps[0]
    assert [line.rstrip().endswith("left") for line in steps] == [True, True, False]


def test_the_time_that_is_left_counts_from_where_this_attempt_began(tmp_path: Path) -> None:
    folder = made(tmp_path)
    shown, out = console(folder)
    start(folder, total=100, step=40)
    trained(folder, 50, time.time() + 20)  # ten steps in 20 s, so 50 take 100
    shown.close()
    assert "going on from step 40" in out.getvalue()
    assert "about 1 min 40 s left" in out.getvalue()


def test_what_earlier_attempts_left_is_not_told_again(tmp_path: Path) -> None:
    folder = made(tmp_path)
    for step in (1, 2, 3):
        trained(folder, step)
    folder.event("stop", step=3)
    shown, out = console(folder)
    shown.refresh()
    truncate_after(folder.metrics, 2)  # as the resumed run does
    shown.refresh()
    assert out.getvalue() == ""


def test_a_row_before_its_start_is_shown_all_the_same(tmp_path: Path) -> None:
    """Another host's clock may be behind: then the start seems to be of an earlier attempt."""
    folder = made(tmp_path)
    shown, out = console(folder)
    trained(folder, 1)
    shown.close()
    assert "loss 4.0000" in out.getvalue()


def test_a_failure_says_who_failed_why_and_where_to_read_on(tmp_path: Path) -> None:
    folder = made(tmp_path)
    shown, out = console(folder)
    cause = {"host": "node7", "message": "ValueError: [bad] data", "traceback": "Traceback\n  in fetch\nValueError"}
    folder.event("failure", rank=3, exit_code=1, log="/runs/x/logs/attempt_1/rank_3.log", **cause)
    shown.close()
    text = out.getvalue()
    for part in ("rank 3 on node7 failed", cause["message"], "in fetch", "log: /runs/x/logs/attempt_1/rank_3.log"):
        assert part in text


def test_bad_steps_and_going_back_are_told(tmp_path: Path) -> None:
    folder = made(tmp_path)
    shown, out = console(folder)
    folder.event("bad_step", step=7, why="the norm of its gradient is nan", samples=[24, 28])
    folder.event("rollback", step=7, to=4, skipped=[6, 7])
    shown.close()
    assert "not trained: step 7, the norm of its gradient is nan" in out.getvalue()
    assert "back from step 7 to the checkpoint of step 4; steps 6 to 7 are skipped" in out.getvalue()


def test_a_terminal_has_a_bar_that_goes_away(tmp_path: Path) -> None:
    folder = made(tmp_path)
    shown, out = console(folder, terminal=True)
    start(folder)
    trained(folder, 5)
    shown.refresh()
    shown.close()
    assert "5/10" in out.getvalue()
    assert "step 5/10" not in out.getvalue()
    assert out.getvalue().endswith("\x1b[2K")  # the bar's line is erased


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (999, "999"), (1000, "1.0k"), (134_515_008, "134.5M"), (7.2e9, "7.2B")]
)
def test_quantities(value: float, text: str) -> None:
    assert quantity(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (3.4, "3 s"),
        (59.7, "1 min 0 s"),
        (125, "2 min 5 s"),
        (3599.6, "1 h 0 min"),
        (3671, "1 h 1 min"),
        (9e4, "25 h 0 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
