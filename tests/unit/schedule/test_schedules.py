"""The shapes of the schedules, from their definitions."""

import math

import pytest

from trainkit.schedule.constant import Constant
from trainkit.schedule.cosine import Cosine
from trainkit.schedule.linear import Linear
from trainkit.schedule.wsd import Wsd


def test_warmup_rises_in_a_straight_line_and_never_spends_a_step_at_zero() -> None:
    schedule = Constant(warmup=4)
    assert [schedule.factor(s, 10) for s in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_linear_ends_at_its_floor() -> None:
    schedule = Linear(warmup=0, floor=0.2)
    assert schedule.factor(0, 10) == 1.0
    assert schedule.factor(5, 10) == pytest.approx(0.6)
    assert schedule.factor(10, 10) == pytest.approx(0.2)


def test_cosine_is_half_a_cosine_after_the_warmup() -> None:
    schedule = Cosine(warmup=2, floor=0.1)
    assert schedule.factor(2, 12) == 1.0
    assert schedule.factor(7, 12) == pytest.approx(0.1 + 0.9 * 0.5)
    assert schedule.factor(4, 12) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 0.2)))
    assert schedule.factor(12, 12) == pytest.approx(0.1)


def test_wsd_is_flat_until_its_decay() -> None:
    schedule = Wsd(warmup=2, decay=4, floor=0.0)
    assert [schedule.factor(s, 10) for s in range(2, 7)] == [1.0] * 5
    assert schedule.factor(8, 10) == pytest.approx(0.5)
    assert schedule.factor(10, 10) == pytest.approx(0.0)


def test_a_length_below_one_is_a_fraction_of_the_run() -> None:
    assert [Constant(warmup=0.2).factor(s, 10) for s in range(3)] == [0.5, 1.0, 1.0]
    assert Wsd(warmup=0, decay=0.4, floor=0.0).factor(8, 10) == pytest.approx(0.5)
    assert not Wsd(warmup=0.1, decay=0.9, floor=0.0).problems(3)


@pytest.mark.parametrize(
    "schedule", [Constant(warmup=20), Linear(warmup=20, floor=0.0), Wsd(warmup=5, decay=6, floor=0.0)]
)
def test_phases_longer_than_the_run_are_refused_by_name(schedule: Constant | Linear | Wsd) -> None:
    (problem,) = schedule.problems(10)
    assert "schedule.warmup" in problem.key
    assert "train.steps=10" in problem.message
    assert not schedule.problems(None)
