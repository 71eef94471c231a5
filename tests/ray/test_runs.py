"""What becomes of a run on a real Ray cluster: it ends as an undisturbed one on one machine, whatever happens to it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.e2e.command import NOT_TRACKED, Running, curve, done, events, summary, trained, weights
from tests.ray.cluster import Cluster, keepers, until

WORDS = (
    "recipe=image_classification",
    "train.steps=null",
    "train.epochs=20",
    "train.device=cpu",
    "checkpoint.every=100",
    "data.ledger=true",
    "strategy=ddp",
    "run.dir=run",
)
"""460 steps."""
SLOWER = ("train.epochs=40",)  # 920 steps: time to be caught


def two(cluster: Cluster, *more: str) -> tuple[str, ...]:
    return ("launcher=ray", f"launcher.address={cluster.address}", "launcher.workers=2", "launcher.placement=SPREAD", *more)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of WORDS with two ranks on this machine."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done(folder, *WORDS, *NOT_TRACKED, "launcher.ranks=2")
    return folder / "run"


def same_run(run: Path, other: Path) -> None:
    """To the bit, each step once, each sample once."""
    assert summary(run)["status"] == "done"
    assert curve(run) == curve(other)
    assert weights(run) == weights(other)
    assert trained(run) == trained(other)


def report(what: str, run: Path, since: float) -> None:
    """Print how long it took from the fault to the first new step."""
    starts = [event["time"] for event in events(run, "start") if event["time"] > since]
    print(f"MEASURED {what}: {starts[0] - since:.1f} s to the start")


@pytest.mark.slow
def test_a_run_is_the_same_on_two_nodes(cluster: Cluster, undisturbed: Path, tmp_path: Path) -> None:
    running = Running(tmp_path, *WORDS, *NOT_TRACKED, *two(cluster))
    hosts = until(lambda: (found := keepers()) and len(found) == 2 and [*found], "there are two keepers")
    assert sorted(hosts) == ["127.0.0.2", "127.0.0.3"]
    assert running.wait() == 0, running.said.read_text()
    same_run(running.run, undisturbed)
