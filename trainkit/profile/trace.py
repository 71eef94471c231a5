"""Where the time of recorded steps went, from a Chrome trace of torch's profiler. Imports no torch.

Every moment belongs to what the rank was busy with: the phase of what it computes; else communication, if some is on
its way, so that only what is not hidden behind computing counts as that; else the phase that Python is in. A rank with
a GPU computes on that, one without in the operators on its processor.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

PHASES = ("data", "forward", "backward", "communication", "optimizer", "checkpoint", "other")
STEP = "ProfilerStep#"
AUTOGRAD = "autograd::engine::evaluate_function"
COMMUNICATION = re.compile(r"(gloo|mpi|ucc):|nccl|c10d::|_c10d_functional::|record_param_comms")
IN_FLIGHT = re.compile(r"(gloo|mpi|ucc|nccl):")
"""From its start to its end, whatever its thread does meanwhile."""
DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")

Event = Mapping[str, Any]


def mark(phase: str) -> str:
    """The name of a part of a step in the trace."""
    return f"trainkit: {phase}"


class Span(NamedTuple):
    """Microseconds."""

    begin: float
    end: float
    phase: str


class Operation(NamedTuple):
    name: str
    calls: int
    seconds: float


@dataclass(frozen=True)
class Trace:
    """`events` that have a length."""

    events: Sequence[Event]

    @classmethod
    def read(cls, path: Path) -> Trace:
        return cls([event for event in json.loads(path.read_text())["traceEvents"] if event.get("ph") == "X"])

    @cached_property
    def steps(self) -> list[Span]:
        return sorted(_span(e, "") for e in self.events if e["name"].startswith(STEP) and e["cat"] == "user_annotation")

    @property
    def seconds(self) -> float:
        return (self.steps[-1].end - self.steps[0].begin) / 1e6

    def shares(self) -> dict[str, float]:
        """The part of the time that each phase has."""
        begin, end = self.steps[0].begin, self.steps[-1].end
        took = dict.fromkeys(PHASES, 0.0)
        for span in _top(begin, end, [self._computing(), self._communicating(), self._doing()]):
            took[span.phase] += span.end - span.begin
        took["other"] += end - begin - sum(took.values())
        return {phase: took[phase] / (end - begin) for phase in PHASES}

    def operations(self) -> list[Operation]:
        """The most expensive first: by what they compute on the GPU where there is one, else by their own time, without
        that of operators which they call."""
        own: list[tuple[str, float]]
        if self._device:
            names: dict[int, str] = {event["args"]["External id"]: event["name"] for event in self._operators}
            own = [(names.get(e["args"].get("External id", -1), str(e["name"])), e["dur"]) for e in self._device]
        else:
            flights = [(e["name"], e["dur"]) for e in self.events if IN_FLIGHT.match(e["name"])]
            own = [*flights, *_own(self._operators)]
        found: dict[str, list[float]] = {}
        for name, duration in own:
            found.setdefault(name, []).append(duration)
        operations = [Operation(name, len(took), sum(took) / 1e6) for name, took in found.items()]
        return sorted(operations, key=lambda operation: -operation.seconds)

    @cached_property
    def _device(self) -> list[Event]:
        return [event for event in self.events if event["cat"] in DEVICE]

    @cached_property
    def _operators(self) -> list[Event]:
        """Of all threads, each before those that it calls."""
        found = [e for e in self.events if e["cat"] == "cpu_op" and not IN_FLIGHT.match(e["name"])]
        return sorted(found, key=lambda event: (event["tid"], event["ts"], -event["dur"]))

    @cached_property
    def _marked(self) -> list[Span]:
        phases = {mark(phase): phase for phase in PHASES}
        marked = [event for event in self.events if event["name"] in phases and event["cat"] == "user_annotation"]
        return sorted(_span(event, phases[event["name"]]) for event in marked)

    @cached_property
    def _parts(self) -> list[Span]:
        """The same; what comes after autograd's last, such as waiting for the other ranks' gradients, is backward."""
        found = []
        for part in self._marked:
            ends = [span.end for spans in self._backward.values() if (span := _last(spans, part)) is not None]
            found += [part._replace(end=max(ends)), Span(max(ends), part.end, "backward")] if ends else [part]
        return found

    @cached_property
    def _backward(self) -> dict[int, list[Span]]:
        """When autograd was at work, by thread: until an operator comes that it has not called, or another part of the
        step."""
        found, until = defaultdict[int, list[Span]](list), defaultdict[int, float](float)
        before: dict[int, Span | None] = {}
        for event in self._operators:
            thread, span = event["tid"], _span(event, "backward")
            if span.begin < until[thread] or COMMUNICATION.match(event["name"]):
                continue
            until[thread] = span.end
            if not event["name"].startswith(AUTOGRAD):
                before[thread] = None
                continue
            part = _at(self._marked, span.begin)
            if part is not None and before.get(thread) == part:
                span = span._replace(begin=found[thread].pop().begin)
            found[thread].append(span)
            before[thread] = part
        return found

    def _phase(self, thread: int, at: float) -> str:
        """Of what a thread of the processor began then."""
        span = _at(self._backward.get(thread, []), at) or _at(self._parts, at)
        return "other" if span is None else span.phase

    def _computing(self) -> Iterator[Span]:
        if not self._device:
            for event in self._operators:
                if not event["name"].startswith(AUTOGRAD) and not COMMUNICATION.match(event["name"]):
                    yield _span(event, self._phase(event["tid"], event["ts"]))
            return
        launches = {e["args"].get("correlation"): e for e in self.events if e["cat"] in ("cuda_runtime", "cuda_driver")}
        for event in self._device:
            launch = launches.get(event["args"].get("correlation"))
            if launch is not None and not COMMUNICATION.match(event["name"]):
                yield _span(event, self._phase(launch["tid"], launch["ts"]))

    def _communicating(self) -> Iterator[Span]:
        return (_span(e, "communication") for e in self.events if COMMUNICATION.match(e["name"]))

    def _doing(self) -> Iterator[Span]:
        """Backward after the others, because it is within one of them."""
        yield from self._parts
        for spans in self._backward.values():
            yield from spans


def _span(event: Event, phase: str) -> Span:
    return Span(event["ts"], event["ts"] + event["dur"], phase)


def _at(spans: Sequence[Span], at: float) -> Span | None:
    """The one of `spans`, which follow each other, that `at` is in."""
    number = bisect_right(spans, at, key=lambda span: span.begin) - 1
    return spans[number] if number >= 0 and spans[number].end > at else None


def _last(spans: Sequence[Span], part: Span) -> Span | None:
    """The last of `spans` that is in this part."""
    number = bisect_right(spans, part.end, key=lambda span: span.begin) - 1
    return spans[number] if number >= 0 and spans[number].begin >= part.begin else None


def _own(operators: Iterable[Event]) -> Iterator[tuple[str, float]]:
    """The time of each without that of those which it calls."""
    stack: list[list[Any]] = []  # thread, end, name, own time
    for event in operators:
        while stack and (stack[-1][0] != event["tid"] or stack[-1][1] <= event["ts"]):
            _, _, name, own = stack.pop()
            yield name, own
        if stack:
            stack[-1][3] -= event["dur"]
        stack.append([event["tid"], event["ts"] + event["dur"], event["name"], event["dur"]])
    yield from ((name, own) for _, _, name, own in stack)


def _top(begin: float, end: float, layers: Iterable[Iterable[Span]]) -> Iterator[Span]:
    """What can be seen from above of layers of spans, the first on top; within a layer, of PHASES backward is on top,
    because it is a part of another."""
    ranked = [*sorted(PHASES, key=lambda phase: phase != "backward")]
    edges = []
    for number, layer in enumerate(layers):
        for span in layer:
            if span.end <= begin or span.begin >= end:
                continue
            kind = number * len(ranked) + ranked.index(span.phase)
            edges += [(max(span.begin, begin), 1, kind), (min(span.end, end), -1, kind)]
    active, at = Counter[int](), begin
    for time, change, kind in sorted(edges):
        if time > at:
            seen = min((kind for kind, count in active.items() if count > 0), default=None)
            if seen is not None:
                yield Span(at, time, ranked[seen % len(ranked)])
            at = time
        active[kind] += change
