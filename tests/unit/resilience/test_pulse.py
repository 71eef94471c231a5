"""A rank is another process, and may be killed in the middle of anything."""

from __future__ import annotations

import mmap
import os
import time
from types import SimpleNamespace

import pytest

from trainkit.resilience import pulse as module
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


def test_no_beat_is_read_while_it_is_written() -> None:
    """The bytes are cleared first: whoever read zeros would take the rank for one that is silent since the start of the
    machine."""
    pulse, ended = Pulse(1), time.monotonic() + 1.0
    child = os.fork()
    if child == 0:
        step = 0
        while time.monotonic() < ended:
            step += 1
            pulse.beat(0, step, "training", float(step), at=float(step))
        os._exit(0)
    reads, last = 0, 0
    while time.monotonic() < ended:
        beat = pulse.read(0)
        if beat.step:
            reads += 1
            assert (beat.section, beat.at, beat.waited) == ("training", beat.step, beat.step)
            assert beat.step >= last
            last = beat.step
    os.waitpid(child, 0)
    assert reads > 1000 and last > 1000


def test_a_rank_that_is_killed_while_it_writes_has_said_what_it_said_before(monkeypatch: pytest.MonkeyPatch) -> None:
    pulse, whole = Pulse(2), module._BEAT
    pulse.beat(1, 6, "training", 0.25, at=5.0)
    before = pulse.read(1)

    def cleared(memory: mmap.mmap, at: int, *beat: object) -> None:
        whole.pack_into(memory, at, 0, 0, 0.0, 0.0)
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(module, "_BEAT", SimpleNamespace(pack_into=cleared, unpack_from=whole.unpack_from))
        with pytest.raises(InterruptedError):
            pulse.beat(1, 7, "training", 0.5, at=6.0)
    assert pulse.read(1) == before
    pulse.begin(2)  # another attempt
    pulse.beat(1, 8, "training", at=7.0)
    assert pulse.read(1).step == 8
