"""Ranks that are slow, and hold all the others up: a throttled GPU, a machine that is shared, a slow disk.

From outside all ranks take as long as the slowest, because they wait for each other in every step. What tells is how
long a rank takes for what it does alone: the forward of the modules that hold no others (backward computes the same,
but most strategies communicate in it), and the wait for its data. Now and then one step is timed like that, on a GPU
by events of its stream. Ranks that have made the same calls are compared; the stages of a pipeline do different work.
"""

from __future__ import annotations

import socket
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from trainkit.protocols import World
from trainkit.settings import Settings

What = Literal["compute", "data"]
LEAST_S = 0.001
"""Below that, what is measured is the clock."""


@dataclass(frozen=True, kw_only=True)
class Timed:
    """Seconds that a rank took for what it did alone in one step, and for which it waited for data per step since the
    last look. `calls`: of modules."""

    calls: int
    compute: float
    data: float


@dataclass(frozen=True, kw_only=True)
class Slow:
    """A rank that takes `seconds` where the others take `usual` (their median)."""

    rank: int
    what: What
    seconds: float
    usual: float


def slow(timed: Sequence[Timed], times: float) -> list[Slow]:
    """The ranks (by their number in `timed`) that take more than `times` as long as the others of their kind. One that
    waits longer for data than the others is no straggler as long as it computes longer than it waits."""
    found = []
    for rank, mine in enumerate(timed):
        others = [t for other, t in enumerate(timed) if other != rank and t.calls == mine.calls]
        if not others:
            continue
        for what, seconds, usual, least in (
            ("compute", mine.compute, statistics.median(t.compute for t in others), LEAST_S),
            ("data", mine.data, statistics.median(t.data for t in others), max(LEAST_S, mine.compute)),
        ):
            if seconds > max(times * usual, least):
                found.append(Slow(rank=rank, what=what, seconds=seconds, usual=usual))  # type: ignore[arg-type]
    return found


class Stragglers:
    """Times a step now and then, and tells once of a rank that was slow in so many looks in a row. `tell` takes an
    event on rank 0."""

    def __init__(self, world: World, settings: Settings, tell: Callable[..., None]) -> None:
        limits = settings.straggler
        # A compiled module would be compiled again for the hooks.
        self._every = None if world.size == 1 or settings.train.compile else limits.every
        self._world, self._times, self._looks, self._tell = world, limits.times, limits.looks, tell
        self._rows: Counter[tuple[int, What]] = Counter()
        self._clock = DeviceClock() if world.device.type == "cuda" else HostClock()
        self._waited = 0.0

    def due(self, step: int) -> bool:
        return self._every is not None and step % self._every == 0

    @contextmanager
    def timing(self, step: int, waited: float) -> Iterator[None]:
        """Time the modules that are called within, in `step`, and compare the ranks, also by how much of the seconds
        that each has `waited` for data since the start are new. Collective."""
        self._clock.start()
        hooks = [register_module_forward_pre_hook(self._enter), register_module_forward_hook(self._leave)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        calls, compute = self._clock.read()
        data, self._waited = (waited - self._waited) / (self._every or 1), waited
        said = self._world.gather((socket.gethostname(), asdict(Timed(calls=calls, compute=compute, data=data))))
        found = {(one.rank, one.what): one for one in slow([Timed(**timed) for _, timed in said], self._times)}
        self._rows = Counter({key: self._rows[key] + 1 for key in found})
        for key, one in found.items():
            if self._rows[key] == self._looks:
                self._tell("straggler", step=step, host=said[one.rank][0], **_rounded(asdict(one)))

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        if not module._modules:
            self._clock.enter()

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if not module._modules:
            self._clock.leave()


class HostClock:
    """Seconds between `enter` and `leave`, added up."""

    def start(self) -> None:
        self._calls, self._seconds, self._since = 0, 0.0, 0.0

    def enter(self) -> None:
        self._since = time.perf_counter()

    def leave(self) -> None:
        self._seconds += time.perf_counter() - self._since
        self._calls += 1

    def read(self) -> tuple[int, float]:
        """How often, and seconds in all."""
        return self._calls, self._seconds


class DeviceClock:
    """The same of the GPU's current stream, without waiting for it before `read`."""

    def start(self) -> None:
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def enter(self) -> None:
        self._entered = self._event()

    def leave(self) -> None:
        self._events.append((self._entered, self._event()))

    def read(self) -> tuple[int, float]:
        torch.cuda.current_stream().synchronize()
        return len(self._events), sum(begin.elapsed_time(end) for begin, end in self._events) / 1000

    @staticmethod
    def _event() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


def _rounded(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in fields.items()}
