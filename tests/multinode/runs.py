"""The run that the tests here start on several machines, and what has to become of it."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.command import TRAINKIT, curve, done, last_step, summary, trained, weights
from tests.multinode.hosts import Command, Hosts, until

WORDS = (
    "recipe=image_classification",
    "train.steps=null",
    "train.epochs=8",
    "train.device=cpu",
    "checkpoint.every=50",
    "data.ledger=true",
    "tracker=none",
    "strategy=ddp",
    "run.dir=run",
)
"""184 steps, in which a run can be caught."""
MEET = ("launcher.rendezvous=a:29500", "launcher.lost_s=5")
TWO = (*MEET, "launcher.nodes=2")


def begin(hosts: Hosts, name: str, folder: Path, *words: str, **more: str) -> Command:
    """The command of a person on one of the machines."""
    return hosts.run(name, folder, *TRAINKIT, *WORDS, *words, **more)


def reach(run: Path, step: int) -> None:
    """Wait until the step is in metrics.jsonl."""
    until(lambda: last_step(run) >= step, f"step {step}", 120)


def same_run(run: Path, other: Path) -> None:
    """To the bit, each step once, each sample once."""
    assert summary(run)["status"] == "done"
    assert curve(run) == curve(other)
    assert weights(run) == weights(other)
    assert trained(run) == trained(other)


def whole(run: Path) -> None:
    """Nothing of it is lost or doubled, as the audit sees it."""
    assert summary(run)["status"] == "done"
    assert done(run.parent, "audit", str(run)).count("ok: ") >= 4
