"""Which key a wrong one probably meant."""

from __future__ import annotations

import pytest

from trainkit.config.suggest import suggest

KNOWN = ["train", "train.steps", "train.seed", "train.ema", "optimizer.lr", "schedule.floor", "launcher.ranks", "ddp"]


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("train.step", "train.steps"),
        ("trian.steps", "train.steps"),
        ("train.lr", "optimizer.lr"),
        ("lr", "optimizer.lr"),
        ("ranks", "launcher.ranks"),
        ("seeds", "train.seed"),
        ("dpp", "ddp"),
        ("tain", "train"),
    ],
)
def test_a_near_miss_is_named(wrong: str, meant: str) -> None:
    assert suggest(wrong, KNOWN) == f"did you mean {meant}?"


@pytest.mark.parametrize("wrong", ["train.foo", "optimizer.zzz", "", "x"])
def test_what_is_near_nothing_gets_no_hint(wrong: str) -> None:
    assert suggest(wrong, KNOWN) == ""
