"""Which steps are bad, and where a run goes on after too many of them. No process, no torch."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainkit.errors import TooManyBadSteps
from trainkit.resilience.guard import LEAST, WINDOW, Guard, Health, deviations
from trainkit.settings import Anomaly

CALM = [2.0, 2.1, 1.9, 2.05, 1.95] * 4


def guard(spike: float | None = 6.0, patience: int = 2, rollbacks: int = 2) -> Guard:
    return Guard(Anomaly(spike=spike, patience=patience, rollbacks=rollbacks))


def seen(losses: list[float], judge: Guard) -> Health:
    health = Health()
    assert [judge.spike(health, loss) for loss in losses] == [None] * len(losses)
    return health


# ---------------------------------------------------------------------------------------------- spikes


def test_a_spike_is_named_with_what_it_was_compared_with_and_does_not_count_among_the_losses() -> None:
    judge = guard()
    health = seen(CALM, judge)
    why = judge.spike(health, 5.0)
    assert why is not None
    assert "5" in why and "above 2, the median" in why
    assert health.losses == CALM


def test_a_loss_that_falls_is_no_spike_and_neither_is_one_of_the_first() -> None:
    judge = guard()
    assert judge.spike(seen(CALM, judge), 0.01) is None
    assert judge.spike(seen(CALM[: LEAST - 1], judge), 50.0) is None
    assert judge.spike(seen(CALM[:LEAST], judge), 50.0) is not None


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_bad_from_the_first_step_on(loss: float) -> None:
    assert guard().spike(Health(), loss) == f"its loss is {loss}"


def test_only_the_newest_losses_count() -> None:
    judge = guard()
    health = seen([100.0] * WINDOW, judge)
    for _ in range(WINDOW):
        assert judge.spike(health, 1.0) is None
    assert len(health.losses) == WINDOW
    assert judge.spike(health, 2.0) is not None


def test_deviations_of_a_normal_distribution_are_standard_deviations() -> None:
    """The quartiles of the standard normal distribution are at 0.6745, so that half of it lies within one MAD."""
    values = [-0.6745, -0.6745, 0.0, 0.6745, 0.6745]
    assert deviations(3.0, values) == pytest.approx(3.0, rel=1e-3)


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=80), st.floats(0.1, 10), st.floats(0.01, 100))
def test_deviations_do_not_depend_on_the_unit_of_the_loss(losses: list[float], loss: float, unit: float) -> None:
    scaled = deviations(unit * loss, [unit * value for value in losses])
    assert scaled == pytest.approx(deviations(loss, losses), rel=1e-6, abs=1e-6)


# ------------------------------------------------------------------------------------------- going back


def bad_steps(judge: Guard, count: int) -> Health:
    health = Health()
    for _ in range(count):
        assert not judge.gives_up(health)
        judge.bad(health, "the norm of its gradient is nan")
    assert judge.gives_up(health)
    return health


def test_first_the_bad_steps_are_skipped_then_all_since_the_checkpoint_then_the_run_ends() -> None:
    judge = guard(patience=2, rollbacks=2)
    assert judge.go_back(bad_steps(judge, 2), 10, 15) == [14, 15]
    assert judge.go_back(bad_steps(judge, 2), 10, 17) == [11, 12, 13, 14, 15, 16, 17]
    with pytest.raises(TooManyBadSteps) as raised:
        judge.go_back(bad_steps(judge, 2), 10, 19)
    told = str(raised.value)
    assert "steps 18 to 19 are bad: of the last one, the norm of its gradient is nan" in told
    assert "gone back to step 10 and 10" in told
    assert "the checkpoint of step 10 is intact" in told


def test_a_newer_checkpoint_is_a_new_chance() -> None:
    judge = guard(patience=1, rollbacks=3)
    assert judge.go_back(bad_steps(judge, 1), 10, 15) == [15]
    assert judge.go_back(bad_steps(judge, 1), 20, 25) == [25]
    assert judge.go_back(bad_steps(judge, 1), 20, 26) == [21, 22, 23, 24, 25, 26]


def test_without_a_checkpoint_the_run_ends() -> None:
    judge = guard(patience=1)
    with pytest.raises(TooManyBadSteps, match="there is no checkpoint to go back to"):
        judge.go_back(bad_steps(judge, 1), None, 3)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20)), max_size=10), st.integers(0, 4))
def test_a_run_goes_back_only_so_often_and_skips_only_what_comes_after_the_checkpoint(
    returns: list[tuple[int, int]], rollbacks: int
) -> None:
    judge, times = guard(patience=1, rollbacks=rollbacks), 0
    for saved, further in returns:
        health = bad_steps(judge, 1)
        try:
            skipped = judge.go_back(health, saved, saved + further)
        except TooManyBadSteps:
            assert times == rollbacks
            return
        times += 1
        assert skipped
        assert set(skipped) <= set(range(saved + 1, saved + further + 1))
        assert saved + further in skipped
    assert times <= rollbacks
