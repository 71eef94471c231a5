"""What the terminal says of an event, where that is one line with nothing around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.markup import escape

from trainkit.console.units import duration

Event = dict[str, Any]


def written(event: Event) -> str:
    """Which checkpoint was written where, and what it cost."""
    cost = f"{event['bytes'] / 2**20:.1f} MiB in {event['seconds']:.1f} s"
    return f"step {event['step']}: {escape(event['path'])} ({cost})"


def _waits(event: Event) -> str:
    waits = f"step {event['step']} waits until step {event['behind']} is on the disk"
    return f"[bold]saving[/bold] {waits}; a larger checkpoint.every would spare the time"


def _straggler(event: Event) -> str:
    does = "computes" if event["what"] == "compute" else "waits for data"
    who = f"rank {event['rank']} on {escape(event['host'])}"
    times = f"{event['seconds']:.3g} s in a step, the others {event['usual']:.3g} s"
    return f"[bold yellow]slow[/bold yellow]: {who} {does} {times}: all wait for it"


def _rollback(event: Event) -> str:
    steps = event["skipped"]
    which = f"step {steps[0]} is" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]} are"
    return f"[bold]back[/bold] from step {event['step']} to the checkpoint of step {event['to']}; {which} skipped"


LINES: Mapping[str, Callable[[Event], str]] = {
    "save": lambda e: f"[bold]saved[/bold] {written(e)}",
    "save_failed": lambda e: f"[bold red]not saved[/bold red]: {escape(e['message'])}",
    "save_waits": _waits,
    "copy": lambda e: f"[bold]copied[/bold] {written(e)}",
    "copy_failed": lambda e: f"[bold red]not copied[/bold red]: {escape(e['path'])}: {escape(e['message'])}",
    "cadence": lambda e: f"[bold]saving[/bold] every {duration(e['every_s'])}: {escape(e['message'])}",
    "bad_step": lambda e: f"[bold red]not trained[/bold red]: step {e['step']}, {e['why']}",
    "straggler": _straggler,
    "rollback": _rollback,
    "sample": lambda e: f"[bold]sample {e['when']} training[/bold]: {escape(e['text'])}",
    "stop": lambda e: f"[bold]stopped[/bold] at step {e['step']}",
    "asked": lambda e: f"stopping: {escape(e['why'])}",
    "waiting": lambda e: f"waiting for {e['hosts']} more to keep ranks for this run",
    "give_up": lambda e: f"[bold red]giving up[/bold red]: {escape(e['why'])}",
}
"""By the event's name."""
