"""Turns the plan of a rank into batches, one global batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trainkit.data.plan import Plan, Step
from trainkit.protocols import Batch, Source

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

Loaded = tuple[Step, list[Batch]]


def load(source: Source, step: Step) -> Loaded:
    """The micro-batches of `step`. A filler keeps its tensors, so that every rank runs the same collectives,
    but counts nothing."""
    batches = [source.fetch(ids) for ids in step.micro_batches]
    if not all(step.real):
        batches = [b if real else Batch(b.inputs, b.targets, 0, 0) for b, real in zip(batches, step.real, strict=True)]
    return step, batches


def loader(source: Source, plan: Plan, samples: int, count: int, workers: int, pin: bool) -> Iterator[Loaded]:
    """Batches of `count` steps from position `samples`. With `workers` processes they are fetched ahead, in order;
    `pin` puts them into page-locked memory for copies to a GPU that do not wait."""
    if workers == 0 and not pin:
        return (load(source, step) for step in plan.steps(samples, count))
    return iter(_background(source, plan, samples, count, workers, pin))


def _background(source: Source, plan: Plan, samples: int, count: int, workers: int, pin: bool) -> DataLoader[Loaded]:
    from torch.utils.data import DataLoader

    return DataLoader(
        _Fetch(source),  # type: ignore[arg-type]  # indexed by a Step instead of a number
        sampler=plan.steps(samples, count),  # an iterator: read once
        batch_size=None,
        num_workers=workers,
        pin_memory=pin,
        collate_fn=_as_it_is,
    )


class _Fetch:
    """A map-style dataset for DataLoader, indexed by steps."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __getitem__(self, step: Step) -> Loaded:
        return load(self.source, step)


def _as_it_is(loaded: Any) -> Any:
    return loaded
