"""What one wants to know of a run first."""

from __future__ import annotations

from trainkit.audit.goodput import goodput
from trainkit.audit.journal import Journal
from trainkit.console import duration


def facts_of(journal: Journal) -> dict[str, str]:
    """State, steps, losses, time and goodput, by name."""
    steps = [row for row in journal.rows if "loss" in row]
    looks = [row for row in journal.rows if "eval_loss" in row]
    ends = [event for event in journal.events if event["event"] in ("launch", "end")]
    status = str(ends[-1].get("status", "has not ended")) if ends else "was not launched"
    total = f" of {journal.starts[-1]['total_steps']}" if journal.starts else ""
    facts = {"state": status, "step": f"{journal.rows[-1]['step'] if journal.rows else 0}{total}"}
    if steps:
        facts["loss"] = f"{steps[-1]['loss']:.4f}"
    for name in (name for name in (looks[-1] if looks else {}) if name.startswith("eval_")):
        facts[name.replace("eval_", "held-out ")] = f"{looks[-1][name]:.4f}"
    parts = goodput(journal)
    facts |= {"time": duration(parts.wall), "goodput": f"{parts.share():.1%}"}
    return facts | {"attempts": str(len(journal.attempts))}
