"""Micro-batches through the stages of a pipeline, by torch's schedules.

torch's stages send tensors of one shape. Ours is a flat buffer as long as the largest hidden state so far, of which
each micro-batch uses as much as it needs: micro-batches of different shapes go through in one pass.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
    ScheduleLoopedBFS,
)

from trainkit.parts import Parts
from trainkit.protocols import Batch, Task
from trainkit.strategy._meshed import ScheduleName

log = logging.getLogger(__name__)


class Feed:
    """What goes through the pipeline in the pass that runs: every rank of it has the same micro-batches. The last stage
    leaves the results here."""

    def __init__(self, task: Task, parts: Parts, device: torch.device, autocast: AbstractContextManager[Any]) -> None:
        self.task, self.parts, self.device, self.autocast = task, parts, device, autocast
        self.batches: Sequence[Batch] = ()
        self.training, self.scale, self.size = True, 0.0, 0
        self.loss = torch.zeros((), device=device)
        self.sums: dict[str, Tensor] = {}
        self._given: Counter[int] = Counter()

    def start(self, batches: Sequence[Batch], training: bool, scale: float = 0.0) -> None:
        """Before a pass; with `training`, gradients of loss * scale."""
        self.batches = [batch.to(self.device) for batch in batches]
        self.training, self.scale = training, scale
        self._given.clear()

    def longest(self) -> int:
        """Elements of the largest hidden state in this pass."""
        return max(math.prod(self.parts.shape(batch.inputs)) for batch in self.batches)

    def next(self, stage: int) -> Batch:
        """The micro-batch that `stage` computes now. Every schedule takes them forward in their order."""
        self._given[stage] += 1
        return self.batches[self._given[stage] - 1]

    def result(self, output: Any, batch: Batch) -> Tensor:
        """What the last stage makes of the model's output: the loss to go backward from."""
        if self.training:
            loss = self.task.loss(output, batch.targets)
            self.loss = self.loss + (loss.detach() if batch.weight else 0.0)
            return loss * (self.scale if batch.weight else 0.0)
        for name, value in self.task.metrics(output, batch.targets).items():
            counted = value.double() if batch.weight else torch.zeros_like(value, dtype=torch.float64)
            self.sums[name] = self.sums[name] + counted if name in self.sums else counted
        return torch.zeros((), device=self.device)


class Stage(nn.Module):
    """Stage `number` as torch's schedules call it: buffer in, buffer out. `model` is the model with what this stage has
    of it. Hidden states travel in fp32."""

    def __init__(self, model: nn.Module, number: int, is_last: bool, feed: Feed) -> None:
        super().__init__()
        self.model, self.number, self.is_last, self._feed = model, number, is_last, feed

    def forward(self, *received: Tensor) -> Tensor:
        feed, batch = self._feed, self._feed.next(self.number)
        hidden = None
        if received:
            shape = feed.parts.shape(batch.inputs)
            hidden = received[0][: math.prod(shape)].view(*shape)
        with feed.autocast:
            output = feed.parts.forward(self.model, hidden, batch.inputs, self.is_last)
            if self.is_last:
                return feed.result(output, batch)
        flat = output.float().flatten()
        # A tensor of its own: zero bubble detaches what a stage returned in place, which a view cannot be.
        sent = nn.functional.pad(flat, (0, feed.size - len(flat))) if len(flat) < feed.size else flat.clone()
        # The next stage sends a gradient back in any case, also where nothing here is trained.
        return sent if sent.requires_grad or not feed.training else sent.requires_grad_()


class Passes:
    """Runs the stages of this rank, by their number out of `count`, with the other ranks of `group`."""

    def __init__(
        self, stages: Mapping[int, Stage], count: int, name: ScheduleName, group: dist.ProcessGroup, feed: Feed
    ) -> None:
        self._stages, self._count, self._name, self._group, self._feed = stages, count, name, group, feed
        self._made: dict[tuple[int, bool], Any] = {}

    def run(self) -> None:
        """One pass of the feed's micro-batches: forward and, in training, backward. Collective in the pipeline."""
        feed = self._feed
        if feed.longest() > feed.size:
            feed.size = feed.longest()
            self._made.clear()
        key = (len(feed.batches), feed.training)
        if key not in self._made:
            self._made[key] = self._make(*key)
        self._made[key].step(target=torch.empty(len(feed.batches)), return_outputs=False)
        feed.batches = ()

    def _make(self, micro_batches: int, training: bool) -> Any:
        stages = [self._stage(number, stage, training) for number, stage in self._stages.items()]
        loss = _as_it_is if training else None  # the last stage has computed it
        kind = schedule(self._fitting(micro_batches) if training else "gpipe", len(stages) > 1)
        single = kind in (ScheduleGPipe, Schedule1F1B)
        return kind(stages[0] if single else stages, micro_batches, loss_fn=loss, scale_grads=False)

    def _fitting(self, micro_batches: int) -> ScheduleName:
        """The schedule to run so many micro-batches by: where the chosen one cannot take them, all forwards run before
        the backwards. The gradients are the same, with more memory and more waiting."""
        name, ranks, speaks = self._name, self._group.size(), self._group.rank() == 0
        if speaks and micro_batches < ranks:
            told = (
                "%s micro-batches on %s ranks: most ranks wait most of the time; a smaller train.micro_batch gives more"
            )
            log.warning(told, micro_batches, ranks)
        if runs(name, micro_batches, ranks, self._count):
            return name
        if speaks:
            told = "strategy.schedule=%s cannot run %s micro-batches on %s stages: this global batch runs as gpipe"
            log.warning(told, name, micro_batches, self._count)
        return "gpipe"

    def _stage(self, number: int, stage: Stage, training: bool) -> PipelineStage:
        """With shapes given, torch has no need to run the model to find them."""
        device = self._feed.device
        buffer = torch.empty(self._feed.size, device="meta", requires_grad=training)
        result = torch.empty((), device="meta", requires_grad=training)
        return PipelineStage(
            stage,
            number,
            self._count,
            device,
            input_args=(buffer,) if number else (),
            output_args=(result if stage.is_last else buffer,),
            group=self._group,
        )


def schedule(name: ScheduleName, virtual: bool) -> Any:
    """The class of torch's schedule; `virtual`: a rank has several stages."""
    kinds: dict[ScheduleName, Any] = {
        "gpipe": ScheduleLoopedBFS if virtual else ScheduleGPipe,
        "1f1b": Schedule1F1B,
        "interleaved1f1b": ScheduleInterleaved1F1B,
        "zero_bubble": ScheduleInterleavedZeroBubble,
    }
    return kinds[name]


def runs(name: ScheduleName, micro_batches: int, ranks: int, stages: int) -> bool:
    """Whether torch's schedule takes that many: 1F1B one per stage at least, the others equal rounds over the ranks."""
    if name == "gpipe":
        return True
    if name == "1f1b":
        return micro_batches >= stages
    return micro_batches >= ranks and micro_batches % (micro_batches // ranks) == 0


def _as_it_is(loss: Tensor, target: Tensor) -> Tensor:
    return loss
