"""What is left to say when a run has ended: summary.json, and the same for a person."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console as Rich
from rich.table import Table
from rich.text import Text

from trainkit.checkpoint.manifest import committed, step_folder
from trainkit.console.units import duration, quantity
from trainkit.runfolder import RunFolder, read_lines


def summarise(folder: RunFolder, checkpoints: Path, status: str, where: str | None) -> dict[str, Any]:
    """The facts of a run, over all its attempts, from its folder."""
    rows = list(read_lines(folder.metrics))
    events = list(read_lines(folder.events))
    steps = [row for row in rows if "loss" in row]
    looks = [row for row in rows if "eval_loss" in row]
    starts = [event for event in events if event["event"] == "start"]
    samples = {event["when"]: event["text"] for event in events if event["event"] == "sample"}
    cadences = [event["message"] for event in events if event["event"] == "cadence"]
    saved = committed(checkpoints)
    return {
        "status": status,
        "step": rows[-1]["step"] if rows else 0,
        "total_steps": starts[-1]["total_steps"] if starts else None,
        "samples": rows[-1]["samples"] if rows else 0,
        "skipped": len({event["step"] for event in events if event["event"] == "bad_step"}),
        "loss": steps[-1]["loss"] if steps else None,
        "eval_before": _metrics(looks[0]) if looks else None,
        "eval_after": _metrics(looks[-1]) if len(looks) > 1 else None,
        "sample_before": samples.get("before"),
        "sample_after": samples.get("after"),
        "tokens_per_second": statistics.median(row["tokens_per_second"] for row in steps) if steps else None,
        "memory_mb": max(row["memory_mb"] for row in steps) if steps else None,
        "seconds": round(sum(e["seconds"] for e in events if e["event"] == "end"), 1),
        "attempts": max((event["attempt"] for event in starts), default=0),
        "cadence": cadences[-1] if cadences else None,
        "checkpoints": [str(step_folder(checkpoints, step)) for step in saved],
        "model": str(folder.model) if folder.model.exists() else None,
        "tracker": where,
    }


def _metrics(row: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in row.items() if key.startswith("eval_")}


def closing(rich: Rich, summary: dict[str, Any], folder: RunFolder, what: str, command: str) -> None:
    """Print the closing table, and below it, never wrapped, what a person copies: where things are, and the `command`
    to type next, on a line of its own; `what` says what it does."""
    rich.print(_table(summary, folder))
    for name, text in _places(summary, folder):
        rich.print(Text.assemble((f"{name:<12}", "bold"), text), soft_wrap=True)
    rich.print(Text.assemble(("next", "bold"), f": {what}"), soft_wrap=True)
    rich.print(Text(command), soft_wrap=True)


def _table(summary: dict[str, Any], folder: RunFolder) -> Table:
    title = Text(f"{folder.root.name}: {summary['status']}", style="table.title")
    grid = Table(title=title, title_justify="left", show_header=False, min_width=60)
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in _facts(summary):
        grid.add_row(name, Text(value))
    return grid


def _facts(summary: dict[str, Any]) -> Iterator[tuple[str, str]]:
    total = f" of {summary['total_steps']}" if summary["total_steps"] else ""
    skipped = f", {summary['skipped']} not trained (bad steps)" if summary["skipped"] else ""
    yield "steps", f"{summary['step']}{total}, {summary['samples']} samples{skipped}"
    before, after = summary["eval_before"], summary["eval_after"]
    if before and after:
        for key, value in after.items():
            first = before.get(key)  # a recipe may have learnt another metric since
            change = f"{value:.4f}" if first is None else f"{first:.4f} -> {value:.4f}{_verdict(key, first, value)}"
            yield key.replace("eval_", "held-out "), change
    elif summary["loss"] is not None:
        yield "loss", f"{summary['loss']:.4f}"
    if summary["sample_before"] and summary["sample_after"]:
        yield "sample before", summary["sample_before"]
        yield "sample after", summary["sample_after"]
    if summary["tokens_per_second"]:
        yield "speed", f"{quantity(summary['tokens_per_second'])} tokens/s (median)"
        yield "memory", f"{summary['memory_mb'] / 1024:.1f} GiB at the most"
    yield "time", duration(summary["seconds"])
    if summary["cadence"]:
        yield "saves", summary["cadence"]


def _places(summary: dict[str, Any], folder: RunFolder) -> Iterator[tuple[str, str]]:
    if summary["checkpoints"]:
        more = f" and {len(summary['checkpoints']) - 1} before it" if len(summary["checkpoints"]) > 1 else ""
        yield "checkpoint", f"{summary['checkpoints'][-1]}{more}"
    if summary["model"]:
        yield "model", summary["model"]
    yield "run folder", str(folder.root)
    if summary["tracker"]:
        yield "tracker", summary["tracker"]
    if summary["tracker_trouble"]:
        rows = f"{summary['unsent_rows']} rows and " if summary["unsent_rows"] else ""
        yield "not sent", f"{rows}the end of it ({summary['tracker_trouble']}); later:"
        yield "", shlex.join(["python", "-m", "trainkit", "mlflow", "sync", str(folder.root)])


def _verdict(key: str, before: float, after: float) -> str:
    if key != "eval_loss":
        return ""
    return "  (it fell)" if after < before else "  (it did NOT fall)"
