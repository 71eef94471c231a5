"""Where the time of a run went. Goodput is the share of it in which steps were trained that count in the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from trainkit.audit.journal import Attempt, Journal, Row

Span = tuple[float, float]
SAVES = ("save", "snapshot")


@dataclass(slots=True)
class Goodput:
    """Seconds of a run from its first launch to its last sign of life, over all attempts.

    start_up    from the launch of an attempt to its first step, and from its last step to its end (export)
    training    steps that count: all that no other line says
    evaluation  held-out samples
    data_wait   the loop had no batch
    stall       the loop stood still for a save
    lost        from the checkpoint that the next attempt went on from to the end of the attempt, and what a run that
                went back by itself had trained since its checkpoint
    down        from the last sign of an attempt to the launch of the next
    """

    training: float = 0.0
    evaluation: float = 0.0
    data_wait: float = 0.0
    stall: float = 0.0
    start_up: float = 0.0
    lost: float = 0.0
    down: float = 0.0

    @property
    def wall(self) -> float:
        return float(sum(getattr(self, part.name) for part in fields(self)))

    def share(self) -> float:
        """Of the time, in which steps were trained that count."""
        return self.training / self.wall if self.wall else 0.0


def goodput(journal: Journal) -> Goodput:
    """Of the run of `journal`."""
    total = Goodput()
    for attempt, following in zip(journal.attempts, [*journal.attempts, None][1:], strict=True):
        _add(total, journal, attempt, following)
    return total


def _add(total: Goodput, journal: Journal, attempt: Attempt, following: Attempt | None) -> None:
    if following is not None:
        total.down += max(0.0, following.launched - attempt.ended)
    if attempt.started is None:
        total.start_up += max(0.0, attempt.ended - attempt.launched)
        return
    made = {row["step"]: row["time"] for row in journal.rows}
    gone = _gone(attempt, attempt.started, following, made)
    counted = [row for row in journal.rows if attempt.started <= row["time"] <= attempt.ended]
    saves = [event for event in attempt.of(*SAVES) if not _within(_went_on(event), gone)]
    evaluation = sum(row.get("evaluation_seconds", 0.0) for row in counted)
    waited = sum(row.get("data_wait", 0.0) for row in counted)
    stall = sum(event["stall"] for event in saves)
    last = max([attempt.started, *(row["time"] for row in counted), *(_went_on(event) for event in saves)])
    finishing = 0.0 if _within(attempt.ended, gone) else attempt.ended - last
    lost = sum(stop - begin for begin, stop in gone)
    whole = attempt.ended - attempt.started
    total.training += max(0.0, whole - finishing - lost - evaluation - waited - stall)
    total.start_up += attempt.started - attempt.launched + finishing
    total.evaluation, total.data_wait = total.evaluation + evaluation, total.data_wait + waited
    total.stall, total.lost = total.stall + stall, total.lost + lost


def _gone(attempt: Attempt, started: float, following: Attempt | None, made: Mapping[int, float]) -> list[Span]:
    """The spans of an attempt whose steps do not count: from a save to where the run, or the next attempt, went back to
    it; from the last step to the fault, where ranks went on from memory. `made`: when each step was."""
    spans = [(_after(attempt, event["to"], started, event["time"]), event["time"]) for event in attempt.of("rollback")]
    if following is not None and following.started is not None and not attempt.of("stop"):
        if following.given:
            since = made.get(following.first, attempt.ended)
        else:
            since = _after(attempt, following.first, started, attempt.ended)
        spans.append((min(since, attempt.ended), attempt.ended))
    joined: list[Span] = []
    for begin, stop in sorted(spans):
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((begin, stop))
    return joined


def _after(attempt: Attempt, step: int, started: float, until: float) -> float:
    """When the loop went on after the save of `step`; when the attempt began, if an earlier one had saved it."""
    times = [_went_on(event) for event in attempt.of(*SAVES) if event["step"] == step]
    return max((time for time in times if time <= until), default=started)


def _went_on(save: Row) -> float:
    """When training went on after a save, whose event is written when it is committed."""
    return float(save["time"] - save["seconds"] + save["stall"])


def _within(time: float, spans: Sequence[Span]) -> bool:
    return any(begin < time <= stop for begin, stop in spans)


def over_time(journal: Journal) -> list[tuple[float, float]]:
    """Seconds since the first launch, and the share of them in which steps were trained that count; at each row."""
    shares: list[tuple[float, float]] = []
    useful = 0.0
    for attempt, following in zip(journal.attempts, [*journal.attempts, None][1:], strict=True):
        if attempt.started is None:
            continue
        gone = _gone(attempt, attempt.started, following, {row["step"]: row["time"] for row in journal.rows})
        stalls = sorted((_went_on(event), event["stall"]) for event in attempt.of(*SAVES))
        before = attempt.started
        for row in journal.rows:
            now = row["time"]
            if not before <= now <= attempt.ended or now == before:
                continue
            lost = sum(max(0.0, min(stop, now) - max(begin, before)) for begin, stop in gone)
            stall = sum(seconds for at, seconds in stalls if before < at <= now and not _within(at, gone))
            idle = row.get("evaluation_seconds", 0.0) + row.get("data_wait", 0.0) + stall
            useful += max(0.0, now - before - lost - idle)
            shares.append((now - journal.attempts[0].launched, useful / (now - journal.attempts[0].launched)))
            before = now
    return shares


def lines(parts: Goodput) -> Sequence[tuple[str, float]]:
    """Name and seconds of each part, as they are shown."""
    names = {
        "training": "training",
        "evaluation": "evaluation",
        "data_wait": "waiting for data",
        "stall": "standing still for a save",
        "start_up": "starting up, finishing",
        "lost": "lost work",
        "down": "down",
    }
    return [(name, getattr(parts, key)) for key, name in names.items()]
