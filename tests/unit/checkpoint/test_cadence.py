"""When a save is due: by what was trained, alike on all ranks; by the clock; and as often as loses the least time."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from trainkit.checkpoint import cadence
from trainkit.checkpoint.cadence import Cadence, Every, daly, parse

MTBF_HOURS = 24.0


class Clock:
    """Stands still until it is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


def told(into: list[dict[str, Any]]) -> cadence.Tell:
    def tell(kind: str, **fields: Any) -> None:
        into.append({"kind": kind, **fields})

    return tell


def saves(every: int | str | None, batches: list[int], tokens: float = 0.0, start: int = 0) -> list[int]:
    """The steps, from 1, after which a run with these global batches saves."""
    due, samples = Cadence(every, MTBF_HOURS, start, told([])), start
    found = []
    for step, batch in enumerate(batches, 1):
        samples += batch
        if due.due(step, samples, tokens):
            found.append(step)
            due.restart()
    return found


@pytest.mark.parametrize(
    ("text", "every"),
    [
        (200, Every(200, "steps")),
        ("200", None),
        ("200 steps", Every(200, "steps")),
        ("500 samples", Every(500, "samples")),
        ("1e3 samples", Every(1000, "samples")),
        ("1e6 tokens", Every(1e6, "tokens")),
        ("10 minutes", Every(600, "seconds")),
        ("1 hour", Every(3600, "seconds")),
        ("1.5 hours", Every(5400, "seconds")),
        ("90seconds", Every(90, "seconds")),
        ("auto", Every(60, "auto")),
    ],
)
def test_what_is_written_is_read(text: int | str, every: Every | None) -> None:
    if every is None:
        with pytest.raises(ValueError, match="no number and unit"):
            parse(text)
    else:
        assert parse(text) == every


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("often", "is no number and unit; units are steps, samples, tokens, seconds, minutes, hours"),
        ("5 days", "has the unit days"),
        ("0 samples", "is not above 0"),
        ("-5 samples", "is no number and unit"),
        ("1e999 tokens", "is not above 0 and finite"),
        ("1.5 samples", "is no whole number of samples"),
        ("1.2.3 hours", "is no number and unit"),
        ("", "is no number and unit"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse(text)


def test_null_never_asks() -> None:
    assert saves(None, [1] * 10) == []
    assert not Cadence(None, MTBF_HOURS, 0, told([])).late()


def test_steps() -> None:
    assert saves(4, [1] * 10) == saves("4 steps", [1] * 10) == [4, 8]


def test_samples_are_counted_from_the_beginning_of_the_run_and_not_from_where_it_goes_on() -> None:
    assert saves("10 samples", [4] * 8) == [3, 5, 8]  # 12, 20, 32
    assert saves("10 samples", [4] * 5, start=12) == [2, 5]  # 20, 32
    assert saves("10 samples", [25, 1, 1, 1, 1, 1]) == [1, 6]  # two multiples at once are one save


def test_tokens_are_counted_from_the_save_before() -> None:
    assert saves("100 tokens", [1] * 7, tokens=40.0) == [3, 6]


def test_the_clock_counts_from_the_beginning_of_the_save_before(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    c = Cadence("10 minutes", MTBF_HOURS, 0, told([]))
    assert c.by_clock
    clock.now += 599
    assert not c.late()
    clock.now += 1
    assert c.late()
    assert not c.due(1, 1, 1.0)
    c.restart()
    assert not c.late()


# --------------------------------------------------------------------------------------------- auto


def test_auto_takes_its_first_save_after_a_minute_and_learns_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, events = Clock(monkeypatch), list[dict[str, Any]]()
    c = Cadence("auto", MTBF_HOURS, 0, told(events))
    clock.now += 60
    assert c.late()
    c.restart()
    c.learn(stall=0.5, seconds=4.0)
    clock.now += 293
    assert not c.late()
    clock.now += 1  # sqrt(2 x 0.5 s x 86400 s) = 293.9 s, less the 0.5 s itself, and a little for the second order
    assert c.late()
    (event,) = events
    assert (event["kind"], event["stall"]) == ("cadence", 0.5)
    assert event["every_s"] == pytest.approx(293.6, abs=0.1)
    assert "a save stops the loop for 0.5 s; with a failure every 24 h the least time is lost" in event["message"]


def test_auto_does_not_write_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    events: list[dict[str, Any]] = []
    Cadence("auto", MTBF_HOURS, 0, told(events)).learn(stall=0.001, seconds=50.0)
    assert events[0]["every_s"] == 500.0
    assert "but it takes 50 s to write one, so one every 500 s" in events[0]["message"]


def test_auto_tells_only_what_changes_much(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    events: list[dict[str, Any]] = []
    c = Cadence("auto", MTBF_HOURS, 0, told(events))
    for stall in (0.5, 0.55, 0.45, 2.0, 0.5):
        c.learn(stall, 1.0)
    assert [event["stall"] for event in events] == [0.5, 2.0, 0.5]


def test_other_cadences_learn_nothing() -> None:
    events: list[dict[str, Any]] = []
    Cadence("1 hour", MTBF_HOURS, 0, told(events)).learn(5.0, 50.0)
    assert events == []


def lost(interval: float, cost: float, mtbf: float, draw: random.Random) -> float:
    """Seconds per second of training that a simulated run loses to saves and to failures."""
    done, spent, since, failure = 0.0, 0.0, 0.0, draw.expovariate(1 / mtbf)
    while done < 3000 * interval:
        if failure < since + interval + cost:  # this segment does not end
            spent, since, failure = spent + failure - since, failure, failure + draw.expovariate(1 / mtbf)
        else:
            done, spent, since = done + interval, spent + interval + cost, since + interval + cost
    return spent / done - 1


@pytest.mark.parametrize(("cost", "mtbf"), [(1.0, 200.0), (5.0, 300.0)])
def test_the_interval_of_daly_loses_less_than_others(cost: float, mtbf: float) -> None:
    """Failures at random, as a Poisson process has them; what was trained since the last save is lost."""
    best = daly(cost, mtbf)
    at = {factor: lost(factor * best, cost, mtbf, random.Random(1)) for factor in (0.4, 1.0, 2.5)}
    assert at[1.0] < at[0.4]
    assert at[1.0] < at[2.5]


def test_a_save_that_costs_more_than_a_failure_comes_as_seldom_as_failures() -> None:
    assert daly(50.0, 20.0) == 20.0
