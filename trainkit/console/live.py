"""The running view: a bar on a terminal, plain lines every few seconds anywhere else.

It follows metrics.jsonl, events.jsonl and rank 0's log, so that what it shows costs the training nothing, and a
terminal that goes away takes nothing with it.
"""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console as Rich
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from trainkit.console.lines import LINES, written
from trainkit.console.units import duration, quantity
from trainkit.runfolder import RunFolder
from trainkit.tail import Tail

LINE_EVERY_S = 5.0


class Console:
    """`refresh` shows what is new since the last call; `close` takes the bar away."""

    def __init__(self, folder: RunFolder, attempt: int, rich: Rich) -> None:
        self._rich, self._since, self._spoke = rich, time.time(), 0.0
        self._folder, self._drawn = folder, self._since
        self._metrics, self._events = Tail(folder.metrics), Tail(folder.events)
        self._log = Tail(folder.logs(attempt) / "rank_0.log")
        self._total, self._start_step, self._start_time = 0, 0, self._since
        self._first_eval: float | None = None
        self._kept = False  # a snapshot was told
        self._bar = _bar(rich) if rich.is_terminal else None
        self._task = self._bar.add_task("starting", total=None, shown="") if self._bar else None
        if self._bar:
            self._bar.start()

    def refresh(self) -> None:
        """Draw what came in, in the order in which it happened."""
        try:
            for line in self._log.lines():
                self._say(f"[dim]{escape(line)}[/dim]")
            # A restart puts a shortened journal in the place of the old one, which is then read once more.
            rows = [row for row in self._metrics.rows() if row["time"] > self._drawn]
            new = [*rows, *self._events.rows()]
        except OSError:
            return  # a shared disk that does not answer now: the next call reads on
        self._drawn = max([self._drawn, *(row["time"] for row in rows)])
        for item in sorted(new, key=lambda item: item["time"]):
            if item["time"] >= self._since:
                (self._event if "event" in item else self._row)(item)

    def say(self, text: str) -> None:
        """A line of the front's own."""
        self._say(escape(text))

    def close(self) -> None:
        self.refresh()
        if self._bar:
            self._bar.stop()

    def _say(self, markup: str) -> None:
        self._rich.print(markup, highlight=False, soft_wrap=True)

    # ---------------------------------------------------------------------------------------- rows

    def _row(self, row: dict[str, Any]) -> None:
        if "loss" in row:
            self._step(row)
        if "eval_loss" in row:
            self._evaluation(row)

    def _step(self, row: dict[str, Any]) -> None:
        shown = (
            f"loss {row['loss']:.4f}  lr {row['lr']:.1e}  {quantity(row['tokens_per_second'])} tok/s  "
            f"{row['memory_mb'] / 1024:.1f} GiB"
        )
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=row["step"], description="training", shown=shown)
        elif row["time"] - self._spoke >= LINE_EVERY_S or row["step"] == self._total:
            self._spoke = row["time"]
            self._say(f"step {row['step']}/{self._total}  {shown}{self._left(row)}")

    def _left(self, row: dict[str, Any]) -> str:
        done = row["step"] - self._start_step
        if done <= 0 or row["step"] == self._total:
            return ""
        return f"  about {duration((row['time'] - self._start_time) / done * (self._total - row['step']))} left"

    def _evaluation(self, row: dict[str, Any]) -> None:
        metrics = "  ".join(f"{k.removeprefix('eval_')} {v:.4f}" for k, v in row.items() if k.startswith("eval_"))
        before = "" if self._first_eval is None else f"  (loss at the start {self._first_eval:.4f})"
        if self._first_eval is None:
            self._first_eval = row["eval_loss"]
        self._say(f"[bold]held-out[/bold] at step {row['step']}: {metrics}{before}")

    # -------------------------------------------------------------------------------------- events

    def _event(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind.startswith("snapshot"):
            self._snapshot(kind, event)
        elif kind == "start":
            self._total, self._start_step, self._start_time = event["total_steps"], event["step"], event["time"]
            if self._bar and self._task is not None:
                self._bar.update(self._task, total=self._total, completed=event["step"], description="evaluating")
            resumed = f", going on from step {event['step']}" if event["step"] else ""
            self._say(
                f"[bold]training[/bold] {quantity(event['trainable'])} of {quantity(event['parameters'])} parameters, "
                f"{self._total} steps, {event['ranks']} rank(s) on {event['device']}{resumed}"
            )
        elif kind == "failure":
            self._failure(event)
        elif kind == "restart":
            self._restart(event)
        elif kind in LINES:
            self._say(LINES[kind](event))

    def _snapshot(self, kind: str, event: dict[str, Any]) -> None:
        """The first one only: they come often."""
        if kind == "snapshot" and not self._kept:
            self._kept = True
            self._say(f"[bold]kept in memory[/bold]: {written(event)}; later ones are not told here")
        elif kind == "snapshot_failed":
            self._say(f"[bold red]not kept in memory[/bold red]: {escape(event['message'])}")
        elif kind == "snapshot_used":
            self._say(f"[bold]going on from memory[/bold]: step {event['step']}, {escape(event['path'])}")
        elif kind == "snapshot_moved":
            self._say(f"[bold]saved[/bold] step {event['step']}, which was in memory only: {escape(event['path'])}")

    def _failure(self, event: dict[str, Any]) -> None:
        """What broke, where, and where to read more. In no frame, which would break lines that are to be copied."""
        nobody = "the launcher" if event["log"].endswith("agent.log") else "the run"
        who = nobody if event["rank"] is None else f"rank {event['rank']}"
        self._say(f"[bold red]{who} on {escape(event['host'])} failed[/bold red]: {escape(event['message'])}")
        trace = event["traceback"].strip().splitlines()[-8:]
        if event["exit_code"] == 1 and event["rank"] != 0:  # rank 0's log is on the screen already
            for line in trace:
                self._say(f"    [dim]{escape(line)}[/dim]")
        self._say(f"    log: {escape(event['log'])}")

    def _restart(self, event: dict[str, Any]) -> None:
        """From here on it is another attempt's rank 0 that is listened to."""
        self._log = Tail(self._folder.logs(event["attempt"]) / "rank_0.log")
        pause = f" in {duration(event['pause'])}" if event["pause"] else ""
        self._say(
            f"[bold yellow]restarting[/bold yellow] {event['ranks']} rank(s) from step {event['step']}{pause}: "
            f"attempt {event['attempt']}, {escape(event['why'])}"
        )


class _Steps(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.completed:.0f}/{task.total:.0f}" if task.total else "")


def _bar(rich: Rich) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        _Steps(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[shown]}"),
        console=rich,
        refresh_per_second=5,
        transient=True,
    )
