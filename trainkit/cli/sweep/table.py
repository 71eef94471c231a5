"""What a sweep came to, for a person."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping

from trainkit.cli.terminal import say, show_rows, show_table, title
from trainkit.sweep.member import Member, Result
from trainkit.sweep.record import Asked, SweepFolder

BEST = 10


def show(sweep: SweepFolder, asked: Asked, members: Mapping[str, Member], results: Mapping[str, Result]) -> None:
    """The best members, and those that failed with what they said."""
    done = [name for name, result in results.items() if result.status == "done"]
    best = sorted(done, key=lambda name: _rank(results[name].value, asked.mode))[:BEST]
    counted = Counter(result.status for result in results.values())
    title(f"\n{sweep.root.name}: {', '.join(f'{count} {status}' for status, count in counted.items()) or 'no members'}")
    if best:
        keys = [space.key for space in asked.spaces]
        rows = ((_number(results[n].value), *(members[n].values[key] for key in keys), n) for n in best)
        show_table([asked.metric, *keys, "run folder"], rows)
        if len(done) > len(best):
            say(f"  and {len(done) - len(best)} more: {sweep.root / 'table.csv'}")
        if not any(results[name].counts for name in done):
            say(f"  no member has a finite {asked.metric}; --metric takes a key of metrics.jsonl", error=True)
    if failed := [*_failed(results)]:
        title("failed")
        show_rows(failed)
    say(f"sweep folder  {sweep.root}")


def _failed(results: Mapping[str, Result]) -> Iterator[tuple[str, str]]:
    for name, result in results.items():
        if result.failed:
            yield name, f"{result.message.splitlines()[0] if result.message else result.status} (step {result.step})"


def _rank(value: float | None, mode: str) -> float:
    if value is None or math.isnan(value):
        return math.inf
    return value if mode == "min" else -value


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"
