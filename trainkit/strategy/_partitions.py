"""Where DeepSpeed keeps what it divides between ranks: the fp32 weights in flat partitions, and the optimizer's state
of each.

    stages 1, 2   one partition per optimizer group; a cut may go through a parameter
    stage 3       one partition per group and sub-group; every rank has an equal part of every parameter, the last one
                  padded

Written against DeepSpeed 0.19: there is no public way to what a rank holds at stages 1 and 2, and the public
one of stage 3 copies to the device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainkit.strategy._fragments import Fragments


@dataclass(frozen=True, slots=True)
class Span:
    """What this rank holds of one parameter: `count` elements from `start` on, at `at` in the partition number
    `partition`."""

    shape: tuple[int, ...]
    partition: int
    start: int
    at: int
    count: int

    def of(self, flat: Tensor) -> Fragments:
        """The parameter's part in `flat`, which is laid out like the partition; a view."""
        return Fragments(self.shape, self.start, flat.detach().narrow(0, self.at, self.count))


class Partitions(ABC):
    """The partitions of one DeepSpeed ZeRO optimizer. `weights` are the fp32 partitions, `spans` what they hold."""

    weights: list[Tensor]
    spans: dict[str, Span]

    def __init__(self, zero: Any, names: Mapping[int, str]) -> None:
        """`zero`: DeepSpeed's optimizer; `names`: of the trained parameters, by id()."""
        self.zero = zero
        self.spans = {names[id(p)]: span for p, span in self._spans()}

    @abstractmethod
    def _spans(self) -> Iterator[tuple[Tensor, Span]]: ...

    @abstractmethod
    def publish(self) -> None:
        """Bring what is in `weights` to where the model computes with it. Collective."""

    @abstractmethod
    def discard(self) -> None:
        """Drop the gradients."""

    @abstractmethod
    def dropped(self) -> None:
        """Call it after a step that DeepSpeed itself has left out. Collective."""

    def moments(self) -> dict[str, dict[str, Tensor]]:
        """The optimizer's state by parameter; what has a value per weight is a view of this rank's part. A fresh
        optimizer is given its state by a step at a learning rate of zero on gradients of zero, and its traces are
        wiped."""
        states: Any = self.zero.optimizer.state
        if not all(len(states[weights]) for weights in self.weights):
            self._materialise()
        return {
            name: {
                key: span.of(value) if value.shape == self.weights[span.partition].shape else value
                for key, value in states[self.weights[span.partition]].items()
                if isinstance(value, Tensor)
            }
            for name, span in self.spans.items()
        }

    def _materialise(self) -> None:
        for group in self.zero.param_groups:
            group["lr"] = 0.0
        for i, weights in enumerate(self.weights):
            kept, weights.grad = weights.grad, torch.zeros_like(weights)
            self.zero._optimizer_step(i)
            weights.grad = kept
            for value in self.zero.optimizer.state[weights].values():
                if isinstance(value, Tensor):
                    value.zero_()


class Stage12(Partitions):
    """The partitions of deepspeed.runtime.zero.stage_1_and_2.DeepSpeedZeroOptimizer."""

    def _spans(self) -> Iterator[tuple[Tensor, Span]]:
        self.weights = self.zero.single_partition_of_fp32_groups
        for i, group in enumerate(self.zero.bit16_groups):
            for p in group:
                held = p._hp_mapping
                where = (
                    (0, 0, 0)
                    if held is None
                    else (
                        held.lp_fragment_address.start,
                        held.hp_fragment_address.start,
                        held.hp_fragment_address.numel,
                    )
                )
                yield p, Span(tuple(p.shape), i, *where)

    def publish(self) -> None:
        self.zero.update_lp_params()

    def dropped(self) -> None:
        """Nothing is missing."""

    def discard(self) -> None:
        zero = self.zero
        zero.zero_grad(set_to_none=True)
        zero.micro_step_id = -1
        for kept in (zero.averaged_gradients, zero.all_grad_tensors):
            kept.update(dict.fromkeys(kept))
        if zero.cpu_offload:
            zero.reset_cpu_buffers()


class Stage3(Partitions):
    """The partitions of deepspeed.runtime.zero.stage3.DeepSpeedZeroOptimizer_Stage3."""

    def _spans(self) -> Iterator[tuple[Tensor, Span]]:
        self.weights = self.zero.fp32_partitioned_groups_flat
        for group in self.zero.fp16_groups:
            for p in group:
                partition, at, size = self.zero.grad_position[self.zero.get_param_id(p)]
                start = size * self.zero._get_param_partition_rank(p)
                yield p, Span(tuple(p.ds_shape), partition, start, at, max(0, min(size, p.ds_numel - start)))

    def publish(self) -> None:
        self.zero._partition_all_parameters()  # else what is kept whole counts as gathered already
        for i in range(len(self.weights)):
            self.zero._reassign_or_swap_out_partitioned_parameters(i)
        self.dropped()

    def dropped(self) -> None:
        """What is kept whole is gathered at the end of every step but such a one, and the next backward expects it."""
        kept_whole = self.zero.persistent_parameters
        if kept_whole:
            kept_whole[0].all_gather(kept_whole)

    def discard(self) -> None:
        self.zero._pre_step()
        self.zero._overflow_clean_up(1.0)
