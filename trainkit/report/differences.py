"""In what runs differ: their keys, the versions they ran with, and the first step whose loss is not the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trainkit.audit.journal import Journal
from trainkit.secrets import flat

Difference = tuple[str, Sequence[str | None]]
"""A name, and what each run has there; None for nothing."""

PLACE = "run.dir"  # no two runs share it, and nothing that is trained depends on it


def keys(journals: Sequence[Journal]) -> list[Difference]:
    """The keys of the resolved configurations that are not the same in all; secrets are not told."""
    return [found for found in _unlike([dict(flat(journal.config)) for journal in journals]) if found[0] != PLACE]


def versions(journals: Sequence[Journal]) -> list[Difference]:
    """What the newest attempts ran with, and where, as far as it is not the same in all."""
    return _unlike([environment(journal) for journal in journals])


def environment(journal: Journal) -> dict[str, str]:
    """What the newest attempt ran with and on."""
    launches = [event for event in journal.events if event["event"] == "launch"]
    launch = launches[-1] if launches else {}
    facts = {"host": launch["host"]} if "host" in launch else {}
    facts |= launch.get("versions", {})
    start = journal.starts[-1] if journal.starts else {}
    told = ("strategy", "ranks", "device", "parameters", "trainable", "train_samples")
    return facts | {name: str(start[name]) for name in told if name in start}


def first_loss(one: Journal, other: Journal) -> tuple[int, float, float] | None:
    """The first step that both have logged and whose loss is not the same to the bit, and the two losses."""
    losses = {row["step"]: row["loss"] for row in one.rows if "loss" in row}
    for row in other.rows:
        if "loss" in row and losses.get(row["step"], row["loss"]) != row["loss"]:
            return row["step"], losses[row["step"]], row["loss"]
    return None


def common_steps(one: Journal, other: Journal) -> int:
    """How many steps both have a loss of."""
    return len({r["step"] for r in one.rows if "loss" in r} & {r["step"] for r in other.rows if "loss" in r})


def _unlike(facts: Sequence[Mapping[str, str]]) -> list[Difference]:
    names = dict.fromkeys(name for of_run in facts for name in of_run)
    found = [(name, [of_run.get(name) for of_run in facts]) for name in names]
    return [(name, values) for name, values in found if len({*values}) > 1]
