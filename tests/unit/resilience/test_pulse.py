"""A rank is another process, and may be killed in the middle of anything."""

from __future__ import annotations

import os
import time

from trainkit.resilience.pulse import Pulse


def test_what_a_rank_said_is_there_when_it_is_gone() -> None:
    pulse = Pulse(3)
    assert (pulse.read(2).step, pulse.read(2).section) == (0, "starting")
    before = time.monotonic()
    child = os.fork()
    if child == 0:
        pulse.beat(1, 6, "training", 0.25)
        pulse.beat(1, 7, "evaluating")
        os._exit(0)
    os.waitpid(child, 0)
    beat = pulse.read(1)
    assert (beat.step, beat.section, beat.waited) == (7, "evaluating", 0.25)
    assert before <= beat.at <= time.monotonic()
    assert pulse.read(0).step == pulse.read(2).step == 0
