"""A run to which everything happens ends by itself with the weights of an undisturbed one, bit by bit, and an audit
finds nothing missing."""

from __future__ import annotations

import os
import random
from pathlib import Path

import psutil
import pytest

from tests.chaos.faults import STORM, nan
from tests.chaos.project import STEPS, WORDS, made
from tests.e2e.command import Running, curve, done, events, last_step, trained, weights

STRATEGIES = [
    "ddp",
    *(pytest.param(name, marks=pytest.mark.drill) for name in ("horovod", "fsdp", "zero2", "zero3", "pipeline")),
]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def chance() -> random.Random:
    """A seed that nobody chose, printed; TRAINKIT_CHAOS_SEED gives the same faults again."""
    seed = int(os.environ.get("TRAINKIT_CHAOS_SEED", random.randrange(2**32)))
    print(f"TRAINKIT_CHAOS_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def shared_memory() -> set[str]:
    return {path.name for path in Path("/dev/shm").iterdir()}


def nothing_is_left(running: Running, shared_memory: set[str]) -> None:
    assert running.left_behind() == []
    assert [p for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE] == []
    assert {path.name for path in Path("/dev/shm").iterdir()} <= shared_memory
    audit = done(running.run.parent, "audit", "run")
    assert audit.count("ok: ") == 4, audit


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_result_is_that_of_the_undisturbed_run(
    strategy: str, chance: random.Random, shared_memory: set[str], tmp_path: Path
) -> None:
    words = (*WORDS, f"strategy={strategy}")
    whole, broken = made(tmp_path / "whole"), made(tmp_path / "broken")
    done(whole, *words)
    running = Running(broken, *words)
    storm = chance.sample([*STORM], len(STORM))
    print(storm)
    for name in storm:
        running.reach(max(last_step(running.run), 0) + chance.randrange(2, STEPS // (len(storm) + 1)))
        STORM[name](running, chance)
        if running.front.poll() is not None:
            running = Running(broken, *words)
    assert running.wait() == 0, running.said.read_text()
    assert weights(running.run) == weights(whole / "run")
    assert trained(running.run) == trained(whole / "run")
    assert curve(running.run) == curve(whole / "run")
    assert {event["cause"] for event in events(running.run, "failure")} >= {"killed", "hung"}
    nothing_is_left(running, shared_memory)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_loss_that_is_not_a_number_is_left_out(
    strategy: str, chance: random.Random, shared_memory: set[str], tmp_path: Path
) -> None:
    running = Running(made(tmp_path), *WORDS, f"strategy={strategy}")
    running.reach(chance.randrange(2, STEPS - 20))
    nan(running, chance)
    assert running.wait() == 0, running.said.read_text()
    bad = {event["step"] for event in events(running.run, "bad_step")}
    rows = curve(running.run)
    assert {row["step"] for row in rows if "skipped" in row} == bad
    assert all(row["loss"] == row["loss"] for row in rows if "loss" in row)
    nothing_is_left(running, shared_memory)
