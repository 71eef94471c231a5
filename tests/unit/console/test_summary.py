"""What is left to say: the facts of all attempts from the folder, and the table a person reads."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from rich.console import Console as Rich

from tests.unit.checkpoint.samples import saved
from tests.unit.console.runs import made, row, start, trained
from trainkit.console import closing, summarise
from trainkit.runfolder import RunFolder

UNTROUBLED: dict[str, Any] = {"unsent_rows": 0, "tracker_trouble": None}


def drawn(folder: RunFolder, summary: dict[str, Any]) -> dict[str, str]:
    """The rows of the table, and the lines below it, which are on a narrow screen as they are on a wide one."""
    out = io.StringIO()
    closing(Rich(file=out, width=72), UNTROUBLED | summary, folder, "go on", "the next [command]" + 80 * "x")
    said = out.getvalue().splitlines()
    cells = [line.strip("│ ").split("│") for line in said if line.startswith("│")]
    *below, what, command = said[next(i for i, line in enumerate(said) if line.startswith("└")) + 1 :]
    assert (what, command) == ("next: go on", "the next [command]" + 80 * "x")
    places = [(line[:12].strip() or "and then", line[12:]) for line in below]
    return {name.strip(): text.strip() for name, text in [*cells, *places]}


def test_two_attempts_are_one_run(tmp_path: Path) -> None:
    folder = made(tmp_path / "mine")
    start(folder, total=3)
    row(folder, 0, eval_loss=4.0)
    folder.event("sample", when="before", text="as[/df]")
    trained(folder, 1)
    folder.event("end", step=1, status="stopped", exit_code=75, seconds=10.0)
    start(folder, total=3, step=1, attempt=2)
    for message in ("a save costs much", "a save costs little"):
        folder.event("cadence", every_s=10.0, stall=0.1, message=message)
    for _ in range(2):  # the run went back and met it again
        folder.event("bad_step", step=2, why="the norm of its gradient is nan", samples=[4, 8])
    trained(folder, 2)
    trained(folder, 3, eval_loss=1.5, eval_accuracy=0.5)
    folder.event("sample", when="after", text="Robots are machines.")
    folder.event("end", step=3, status="done", exit_code=0, seconds=60.5)
    saved(tmp_path / "mine/checkpoints", 1, 3)
    folder.model.mkdir()
    summary = summarise(folder, folder.checkpoints(None), "done", "mlflow ui")
    assert json.loads(json.dumps(summary)) == {
        "status": "done",
        "step": 3,
        "total_steps": 3,
        "samples": 12,
        "skipped": 1,
        "loss": 2.0,
        "eval_before": {"eval_loss": 4.0},
        "eval_after": {"eval_loss": 1.5, "eval_accuracy": 0.5},
        "sample_before": "as[/df]",
        "sample_after": "Robots are machines.",
        "tokens_per_second": 2000.0,
        "memory_mb": 1536,
        "seconds": 70.5,
        "attempts": 2,
        "cadence": "a save costs little",
        "checkpoints": [str(tmp_path / f"mine/checkpoints/step_{step}") for step in (1, 3)],
        "model": str(folder.model),
        "tracker": "mlflow ui",
    }
    assert drawn(folder, summary) == {
        "steps": "3 of 3, 12 samples, 1 not trained (bad steps)",
        "held-out loss": "4.0000 -> 1.5000  (it fell)",
        "held-out accuracy": "0.5000",  # the recipe learnt it between the attempts
        "sample before": "as[/df]",
        "sample after": "Robots are machines.",
        "speed": "2.0k tokens/s (median)",
        "memory": "1.5 GiB at the most",
        "time": "1 min 10 s",
        "saves": "a save costs little",
        "checkpoint": f"{tmp_path}/mine/checkpoints/step_3 and 1 before it",
        "model": str(folder.model),
        "run folder": str(folder.root),
        "tracker": "mlflow ui",
    }


def test_a_loss_that_rose_is_not_glossed_over(tmp_path: Path) -> None:
    folder = made(tmp_path)
    row(folder, 0, eval_loss=1.0)
    trained(folder, 1, eval_loss=float("nan"))
    assert "did NOT fall" in drawn(folder, summarise(folder, tmp_path, "done", None))["held-out loss"]


def test_one_evaluation_is_no_comparison(tmp_path: Path) -> None:
    """The run ended before its second one."""
    folder = made(tmp_path)
    row(folder, 0, eval_loss=1.0)
    trained(folder, 1)
    shown = drawn(folder, summarise(folder, tmp_path, "failed", None))
    assert shown["loss"] == "4.0000"
    assert "held-out loss" not in shown


def test_a_run_that_never_began_has_a_summary(tmp_path: Path) -> None:
    folder = made(tmp_path / "a [b] run")
    summary = summarise(folder, tmp_path / "none", "failed", None)
    assert (summary["step"], summary["attempts"], summary["checkpoints"], summary["loss"]) == (0, 0, [], None)
    assert drawn(folder, summary) == {
        "steps": "0, 0 samples",
        "time": "0 s",
        "run folder": f"{tmp_path}/a [b] run",
    }


def test_what_the_tracker_lacks_is_told_with_the_command_that_mends_it(tmp_path: Path) -> None:
    folder = made(tmp_path / "a b")
    summary = summarise(folder, tmp_path, "done", None)
    shown = drawn(folder, summary | {"unsent_rows": 7, "tracker_trouble": "ConnectionError: [x] refused"})
    assert "7 rows" in shown["not sent"]
    assert "ConnectionError: [x] refused" in shown["not sent"]
    assert shown["and then"] == f"python -m trainkit mlflow sync '{tmp_path}/a b'"
