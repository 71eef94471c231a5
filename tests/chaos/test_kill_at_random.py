"""Ranks killed at steps nobody chose: the run ends by itself with the weights of an undisturbed one, bit by bit."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.e2e.command import NOT_TRACKED, Running, done, events, trained, until, weights

STEPS = 230  # 10 epochs of 1437 images in batches of 64, the last of each short
WORDS = (
    "recipe=image_classification",
    "train.steps=null",
    "train.epochs=10",
    "train.device=cpu",
    "checkpoint.every=20",
    "data.ledger=true",
    "run.dir=run",
    "launcher.ranks=2",
    *NOT_TRACKED,
)
KILLS = 2


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "zero2"])
def test_the_weights_are_those_of_the_undisturbed_run(strategy: str, tmp_path: Path) -> None:
    seed = int(os.environ.get("TRAINKIT_CHAOS_SEED", random.randrange(2**32)))
    print(f"TRAINKIT_CHAOS_SEED={seed}")  # gives the same kills again
    chance = random.Random(seed)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    words = (*WORDS, f"strategy={strategy}")
    done(whole, *words)
    running = Running(broken, *words)
    for kill in range(1, KILLS + 1):
        running.reach(chance.randrange(STEPS * kill // (KILLS + 1)))
        _, ranks = running.processes()
        ranks[chance.randrange(len(ranks))].kill()
        until(lambda kill=kill: len(events(running.run, "start")) > kill, lambda: running.front.poll() is None)  # type: ignore[misc]
    assert running.wait() == 0, running.said.read_text()
    assert running.left_behind() == []
    assert [event["cause"] for event in events(running.run, "failure")] == ["killed"] * KILLS
    assert weights(running.run) == weights(whole / "run")
    assert trained(running.run) == trained(whole / "run")
