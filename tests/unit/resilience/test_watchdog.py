"""A run hangs when nobody is heard of for longer than its own steps explain."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainkit.resilience.pulse import Beat, Section
from trainkit.resilience.watchdog import Watch, described
from trainkit.settings import Watchdog

AUTO = Watchdog(timeout=None, slow=1800.0)


def after(steps: Sequence[float], limits: Watchdog = AUTO) -> tuple[Watch, float]:
    """Two ranks that have made steps of so many seconds, and what time it is."""
    watch, now = Watch(limits, 0), 0.0
    for step, seconds in enumerate([0.0, *steps], 1):
        now += seconds
        assert watch.look([Beat(step, "training", now)] * 2, now) is None
    return watch, now


def both(step: int, section: Section, at: float) -> list[Beat]:
    return [Beat(step, section, at)] * 2


def at_last(watch: Watch, beats: Sequence[Beat], until: float) -> float | None:
    """What it says `until` then, when it has looked every second since it heard of them."""
    at = max(beat.at for beat in beats)
    while at < until:
        at = min(at + 1.0, until)
        said = watch.look(beats, at)
    return said


@given(st.lists(st.floats(0.01, 100), min_size=3, max_size=30).map(lambda steps: [1.0] * 40 + steps))
def test_the_limit_follows_the_median_and_not_what_was_slow_once(steps: list[float]) -> None:
    watch, now = after(steps)
    assert watch.limit(both(len(steps), "training", now)) == 60.0


@pytest.mark.parametrize(("seconds", "limit"), [(0.5, 60.0), (6.0, 60.0), (9.0, 90.0)])
def test_ten_times_the_median_step_but_at_least_a_minute(seconds: float, limit: float) -> None:
    watch, now = after([seconds] * 9)
    beats = both(10, "training", now)
    assert at_last(watch, beats, now + limit - 1) is None
    assert at_last(watch, beats, now + limit + 1) == pytest.approx(limit + 1)


def test_time_in_which_nobody_looked_is_no_silence() -> None:
    """The machine stood still, or the whole job was suspended."""
    watch, now = after([0.1] * 9)
    beats = both(10, "training", now)
    assert at_last(watch, beats, now + 50) is None
    assert watch.look(beats, now + 5000) is None
    assert watch.look(beats, now + 5009) is None
    assert watch.look(beats, now + 5011) is None
    assert watch.look(both(11, "training", now + 5012), now + 5012) is None
    assert at_last(watch, both(11, "training", now + 5012), now + 5073) == pytest.approx(61)


def test_what_is_no_step_and_the_first_steps_may_take_longer() -> None:
    watch, now = after([0.1] * 9)
    for section in ("starting", "evaluating", "saving", "finishing"):
        beats = [Beat(10, "training", now), Beat(9, section, now)]
        assert at_last(watch, beats, now + 1799) is None
        assert at_last(watch, beats, now + 1801) is not None
    watch, now = after([0.1] * 2)
    assert at_last(watch, both(3, "training", now), now + 1799) is None


def test_steps_too_fast_to_be_seen_one_by_one_count() -> None:
    """And those before the attempt do not."""
    watch = Watch(AUTO, 100)
    assert watch.look(both(0, "starting", 0.0), 0.0) is None
    assert watch.look(both(103, "training", 8.0), 8.0) is None
    assert watch.limit(both(103, "training", 8.0)) == 1800.0
    assert watch.look(both(104, "training", 9.0), 9.0) is None
    assert watch.limit(both(104, "training", 9.0)) == 60.0


def test_a_run_that_goes_on_from_further_than_was_known_has_its_slow_first_steps_too() -> None:
    """On a machine that had to fetch the checkpoint."""
    watch = Watch(AUTO, 0)
    assert watch.look(both(0, "starting", 0.0), 0.0) is None
    assert watch.look(both(100, "starting", 50.0), 50.0) is None
    assert watch.look(both(101, "training", 51.0), 51.0) is None
    assert watch.limit(both(101, "training", 51.0)) == 1800.0
    for step in (102, 103, 104):
        assert watch.look(both(step, "training", step), step) is None
    assert watch.limit(both(104, "training", 104)) == 60.0


def silent(limits: Watchdog, share: float, seconds: float) -> bool:
    """Whether a run is hung that has made steps of a tenth of a second, and then is silent, while rank 1 uses such a
    share of a core."""
    now = 0.0
    watch = Watch(limits, 0, lambda: [7.0, 3.0 + share * now])
    for step in range(1, 12):
        now += 0.1
        assert watch.look(both(step, "training", now), now) is None
    at = now
    while now < at + seconds:
        now += 1.0
        if watch.look(both(11, "training", at), now) is not None:
            return True
    return False


@pytest.mark.parametrize(
    ("share", "seconds", "hung"), [(0.05, 65, True), (0.4, 65, False), (0.4, 1795, False), (0.4, 1805, True)]
)
def test_a_rank_that_computes_does_not_hang(share: float, seconds: float, hung: bool) -> None:
    """The machine is short of cores. Not for ever: it may be a loop without end."""
    assert silent(AUTO, share, seconds) == hung


def test_a_time_that_is_set_is_not_stretched() -> None:
    assert silent(Watchdog(timeout=3.0, slow=1800.0), 1.0, 5)


def test_a_time_that_is_set_holds_for_steps() -> None:
    watch, now = after([0.1] * 5, Watchdog(timeout=3.0, slow=20.0))
    assert at_last(watch, both(6, "training", now), now + 3.1) is not None
    assert at_last(watch, both(6, "saving", now), now + 3.1) is None
    assert at_last(watch, both(6, "saving", now), now + 20.1) is not None


def test_one_rank_that_is_heard_of_is_enough() -> None:
    watch, now = after([0.1] * 5)
    assert watch.look([Beat(6, "training", now), Beat(6, "training", now + 100)], now + 110) is None


def test_who_is_waited_for_is_named() -> None:
    ahead, back = Beat(8, "training", 1.0), Beat(7, "training", 0.5)
    assert described([ahead, back], [], 63.4) == (
        1,
        "no rank was heard of for 63 s: rank 1 did not come to step 8, where the others wait",
    )
    assert described([back, ahead, back], [], 9)[1].endswith("ranks 0, 2 did not come to step 8, where the others wait")
    assert described([ahead, ahead], [1], 9) == (
        1,
        "no rank was heard of for 9 s: the process of rank 1 is stopped (SIGSTOP)",
    )
    assert described([ahead, ahead], [], 9) == (
        None,
        "no rank was heard of for 9 s: every rank is in step 8 (training)",
    )
