"""From a data position to the micro-batches of one rank: pure arithmetic.

A global batch is the next `global_batch` positions, cut short at the end of an epoch so that every sample is
trained once per epoch. Rank r of n takes a contiguous slice of it. Every rank gets equally many micro-batches,
because sharded strategies run one collective per forward; where a slice runs out, the micro-batch is a filler
that counts nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trainkit.data.order import Order

BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Step:
    """One global batch: this rank's micro-batches of sample ids (`real[i]` is False for a filler), and the
    position after it."""

    micro_batches: list[list[int]]
    real: list[bool]
    samples: int

    def ids(self) -> list[int]:
        """Of the samples that this rank trains, without fillers."""
        return [i for micro, real in zip(self.micro_batches, self.real, strict=True) if real for i in micro]


def split(ids: Sequence[int], rank: int, ranks: int, micro_batch: int | None) -> tuple[list[list[int]], list[bool]]:
    """The share of `rank` as micro-batches of at most `micro_batch` samples, equally many on every rank.

    With micro_batch None the whole share is one micro-batch. A filler repeats the first id of the batch.
    """
    share = ids[len(ids) * rank // ranks : len(ids) * (rank + 1) // ranks]
    largest = math.ceil(len(ids) / ranks)
    size = micro_batch or largest
    count = math.ceil(largest / size)
    if len(share) == largest:
        return [list(share[i * size : (i + 1) * size]) for i in range(count)], [True] * count
    micro = [list(share[i * size : (i + 1) * size]) for i in range(count)]
    return [m or [ids[0]] for m in micro], [bool(m) for m in micro]


@dataclass(frozen=True, slots=True)
class Plan:
    """The training steps of one rank over `order`."""

    order: Order
    global_batch: int
    micro_batch: int | None
    rank: int
    ranks: int

    def steps(self, samples: int, count: int) -> Iterator[Step]:
        """The `count` steps after `samples` consumed samples. Ids are worked out a block ahead: one pass of the
        permutation over many is hardly dearer than over few. A block ends with its epoch, as a step does."""
        first, block = samples, self.order.ids(samples, samples)
        for _ in range(count):
            epoch_end = (samples // self.order.size + 1) * self.order.size
            stop = min(samples + self.global_batch, epoch_end)
            if stop - first > len(block):
                ahead = min(samples + max(BLOCK, self.global_batch), epoch_end)
                first, block = samples, self.order.ids(samples, ahead)
            ids = block[samples - first : stop - first].tolist()
            yield Step(*split(ids, self.rank, self.ranks, self.micro_batch), stop)
            samples = stop

    def total_steps(self, steps: int | None, epochs: float | None) -> int:
        """Optimizer steps of the whole run, from whichever of the two is set."""
        if steps is not None:
            return steps
        whole = math.floor(epochs or 0)
        rest = ((epochs or 0) - whole) * self.order.size
        return whole * math.ceil(self.order.size / self.global_batch) + math.ceil(rest / self.global_batch)

    def samples_after(self, steps: int) -> int:
        """The position after the first `steps` steps."""
        epochs, rest = divmod(steps, math.ceil(self.order.size / self.global_batch))
        return epochs * self.order.size + rest * self.global_batch
