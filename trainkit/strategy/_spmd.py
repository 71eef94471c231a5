"""The engine of every strategy whose ranks all run the same program on the whole or a shard of the model.

One global batch, on every rank:

    forward_backward   for each micro-batch: forward, loss sum / weight of the global batch, backward
                       (gradients are synchronised in the last backward only) -> running statistics of one rank
    update             true global norm -> clip -> optimizer step at the given learning rate -> average -> zero
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainkit.canonical import trainable, trained_state
from trainkit.protocols import Batch, Training, World
from trainkit.strategy import _statistics
from trainkit.strategy._average import Average, evaluating
from trainkit.strategy._same import same_start, same_still

NoSync = Callable[[], AbstractContextManager[None]]


def task_model(training: Training, world: World) -> nn.Module:
    """The task's model on the CPU, in training mode. Raises TrainkitError unless it is the same on every rank."""
    torch.manual_seed(training.seed)
    model = training.task.build_model().train()
    same_start(model, world)
    return model


def build_model(training: Training, world: World) -> nn.Module:
    """The task's model on this rank's device, with checkpointed blocks and compiled forward where asked for. Both keep
    the parameters' names."""
    model = task_model(training, world).to(world.device)
    if training.activation_checkpointing:
        recompute(training.task.blocks(model))
    if training.compile:
        model.compile()
    return model


def recompute(blocks: Sequence[nn.Module]) -> None:
    """Keep the inputs of `blocks` only, and compute them again for backward (Chen et al., 2016, arXiv:1604.06174)."""
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


class SpmdEngine:
    """Implements protocols.Engine. `wrapped` is what is called (a DDP wrapper or `model` itself); gradients that
    `wrapped` averages over ranks are turned back into sums."""

    def __init__(
        self, training: Training, model: nn.Module, wrapped: nn.Module, world: World, no_sync: NoSync | None = None
    ) -> None:
        self.task, self.clip_norm = training.task, training.clip_norm
        self._sample = self.task.sample
        self.model, self.world, self._no_sync = model, world, no_sync
        self._wrapped = wrapped
        self._named = named = trainable(model)
        self.parameters = [p for _, p in named]
        self.optimizer = training.optimizer.build(named)
        self.average = Average(named, training.ema) if training.ema else None
        self._statistics = _statistics.names(model)
        self._before: list[Tensor] = []
        if world.dp_rank == 0:
            _statistics.warn(model)
        self._autocast = torch.autocast(world.device.type, torch.bfloat16, enabled=training.precision == "bf16")
        self._loss = self._autocast(self._forward_loss) if training.precision == "bf16" else self._forward_loss

    def _forward_loss(self, batch: Batch) -> Tensor:
        return self.task.loss(self._wrapped(**batch.inputs), batch.targets)

    def forward_backward(self, share: Sequence[Batch], weight: float) -> Tensor:
        if self._statistics:
            self._remember()
        try:
            return self._accumulate(share, weight)
        except Exception:  # whoever saves the step before has to find it
            self._recall()
            raise

    def _accumulate(self, share: Sequence[Batch], weight: float) -> Tensor:
        scale = self.world.dp_size / weight if weight else 0.0
        last = len(share) - 1
        total: Tensor | None = None
        for i, batch in enumerate(share):
            if i < last and self._no_sync is not None:
                with self._no_sync():
                    loss = self._backward(batch, scale)
            else:
                loss = self._backward(batch, scale)
            total = loss if total is None else total + loss
        if total is None:
            raise ValueError("a share has at least one micro-batch, if only a filler")
        if self._statistics:
            self._settle()
        return total

    def _remember(self) -> None:
        self._before = [self.model.get_buffer(name).clone() for name in self._statistics]

    @torch.no_grad()
    def _recall(self) -> None:
        """Take the running statistics back to where they were before this global batch."""
        for name, before in zip(self._statistics, self._before, strict=True):
            self.model.get_buffer(name).copy_(before)

    def _settle(self) -> None:
        """Each rank has counted its own samples in the running statistics: all go on with one of them."""
        _statistics.settle([self.model.get_buffer(name) for name in self._statistics], self.world)

    def _backward(self, batch: Batch, scale: float) -> Tensor:
        loss = self._loss(batch.to(self.world.device))
        counted = scale if batch.weight else 0.0
        loss.backward(torch.full_like(loss, counted))  # as of loss * counted, without its two kernels
        return loss.detach() if batch.weight else torch.zeros_like(loss)

    def update(self, lr: float) -> Tensor:
        norm = self._clip()
        if not math.isfinite(norm.item()):  # a GPU is waited for here, once per step
            self._drop()
            return norm
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        if self.average is not None:
            self.average.update()
        self.optimizer.zero_grad()
        return norm

    def _clip(self) -> Tensor:
        if self.clip_norm is None:
            return nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        return nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)

    def discard(self) -> None:
        self._drop()

    def _drop(self) -> None:
        """Leave nothing of a batch whose gradients are there."""
        self.optimizer.zero_grad()
        self._recall()

    def compare(self) -> None:
        same_still(self.model, self.world)

    def size(self) -> tuple[int, int]:
        return sum(p.numel() for p in self.model.parameters()), sum(p.numel() for p in self.parameters)

    def evaluate(self, share: Iterable[Batch]) -> tuple[dict[str, Tensor], float]:
        sums: dict[str, Tensor] = {}
        weight = 0.0
        with self._evaluating():
            for batch in share:
                moved = batch.to(self.world.device)
                with self._autocast:
                    metrics = self.task.metrics(self.model(**moved.inputs), moved.targets)
                for name, value in metrics.items():
                    counted = value.double() if batch.weight else torch.zeros_like(value, dtype=torch.float64)
                    sums[name] = sums[name] + counted if name in sums else counted
                weight += batch.weight
        return sums, weight

    def sample(self) -> str | None:
        with self._evaluating():
            return self._sample(self.model)

    def _evaluating(self) -> AbstractContextManager[None]:
        return evaluating(self.model, self.average)

    def state_dict(self) -> dict[str, Any]:
        """Live tensors: what is read into them is loaded. In the middle of a step that broke, the model may have what
        FSDP has gathered in place of its own parameters."""
        self._materialise()
        state: dict[str, Any] = {
            "model": trained_state(self.model) | {name: p.detach() for name, p in self._named},
            "optimizer": {
                name: {k: v for k, v in self.optimizer.state[p].items() if isinstance(v, Tensor)}
                for name, p in self._named
            },
        }
        if self.average is not None:
            state["ema"] = self.average.state
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing is left to do: the checkpoint was read into the live tensors of state_dict()."""

    def _materialise(self) -> None:
        """Give a fresh optimizer its state tensors: they only come into being in its first step. That step runs at
        a learning rate of zero on gradients of zero, and its traces are wiped."""
        if self.optimizer.state:
            return
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0
        for p in self.parameters:
            p.grad = torch.zeros_like(p)
        self.optimizer.step()
        self.optimizer.zero_grad()
        for state in self.optimizer.state.values():
            for value in state.values():
                if isinstance(value, Tensor):
                    value.zero_()
