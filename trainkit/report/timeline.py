"""What happened to whom and when: a lane for the run with its attempts, and one for each rank that an event names."""

from __future__ import annotations

from html import escape

from trainkit.audit.journal import Journal, Row
from trainkit.console import describe, duration

WIDTH, LEFT, RIGHT, LANE, AXIS = 800, 70, 12, 22, 22
LANES = 24  # of ranks; a page about thousands of them would not be read
ALL = "all ranks"
SIGNS = {
    "save": "save",
    "copy": "save",
    "snapshot": "save",
    "failure": "bad",
    "give_up": "bad",
    "save_failed": "bad",
    "copy_failed": "bad",
    "snapshot_failed": "bad",
    "bad_step": "odd",
    "rollback": "odd",
    "straggler": "odd",
    "asked": "odd",
    "stop": "odd",
}
"""The events that are drawn, and as what."""


def timeline(journal: Journal) -> str:
    """As SVG; nothing for a run that was never launched."""
    if not journal.attempts:
        return ""
    begin = journal.attempts[0].launched
    whole = max(1e-3, journal.events[-1]["time"] - begin)
    shown = [event for event in journal.events if event["event"] in SIGNS]
    names = sorted({rank for event in shown if (rank := _rank(event)) is not None})[:LANES]
    lanes: dict[int | None, int] = {None: 0} | {rank: n for n, rank in enumerate(names, 1)}
    height = LANE * len(lanes) + AXIS

    def at(time: float) -> float:
        return float(LEFT + (time - begin) / whole * (WIDTH - LEFT - RIGHT))

    parts = [_lane(ALL if rank is None else f"rank {rank}", n) for rank, n in lanes.items()]
    for attempt in journal.attempts:
        began = attempt.ended if attempt.started is None else attempt.started
        told = f"attempt {attempt.number}: {duration(max(0.0, attempt.ended - attempt.launched))}, "
        told += f"of which {duration(max(0.0, began - attempt.launched))} until it trained"
        parts.append(_bar(at(attempt.launched), at(began), "up", told) + _bar(at(began), at(attempt.ended), "on", told))
    parts += [_sign(event, at(event["time"]), lanes.get(_rank(event), 0)) for event in shown]
    unit, size = next(((u, s) for u, s in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)) if whole >= 2 * s), ("s", 1.0))
    for quarter in range(5):
        x, y = at(begin + whole * quarter / 4), height - 6
        anchor = {0: "start", 4: "end"}.get(quarter, "middle")
        parts.append(f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}">{whole * quarter / 4 / size:.3g} {unit}</text>')
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="timeline">{"".join(parts)}</svg>'


def _rank(event: Row) -> int | None:
    """Whom it is about; a save of the whole run is not the rank's that has told of it."""
    rank: int | None = event.get("rank")
    return rank


def _lane(name: str, number: int) -> str:
    y = LANE * number
    line = f'<path class="grid" d="M{LEFT} {y + LANE / 2}H{WIDTH - RIGHT}"/>'
    return f'{line}<text x="{LEFT - 6}" y="{y + 15}" text-anchor="end">{name}</text>'


def _bar(begin: float, end: float, kind: str, told: str) -> str:
    shape = f'<rect class="{kind}" x="{begin:.1f}" y="3" width="{max(0.5, end - begin):.1f}" height="{LANE - 6}"/>'
    return f"<g><title>{escape(told)}</title>{shape}</g>"


def _sign(event: Row, x: float, lane: int) -> str:
    """A tick for what is usual, a cross or a disc for what is not: they differ without colour too."""
    y, kind = LANE * lane + LANE / 2, SIGNS[event["event"]]
    if kind == "save":
        shape = f'<path class="save" d="M{x:.1f} {y - 6}v12"/>'
    elif kind == "bad":
        shape = f'<path class="bad" d="M{x - 4:.1f} {y - 4}l8 8m0 -8l-8 8"/>'
    else:
        shape = f'<circle class="odd" cx="{x:.1f}" cy="{y}" r="4"/>'
    return f"<g><title>{escape(describe(event))}</title>{shape}</g>"
