"""DeepSpeed's engine at ZeRO stage 1, 2 or 3.

    connect   torch's process group, which DeepSpeed then finds and uses; closing it makes DeepSpeed forget it
    build     the recipe's model and optimizer, wrapped by deepspeed.initialize

DeepSpeed averages gradients over the ranks and divides the loss by its number of accumulation steps. It is told of one
step, and where the last micro-batch of a global batch is, so that any number of them adds up to the recipe's sum. Stage
1 sends gradients once per global batch; stages 2 and 3 once per micro-batch, because no rank keeps them whole.

Weights, moments and reductions are fp32, also with train.precision=bf16: DeepSpeed's autocast is for the arithmetic.
A step on a gradient that is not finite is left out by DeepSpeed itself; the norm is infinite then.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainkit.canonical import trainable, trained_state
from trainkit.errors import TrainkitError
from trainkit.protocols import Batch, Training, World
from trainkit.strategy._average import Average, evaluating
from trainkit.strategy._partitions import Partitions, Stage3, Stage12
from trainkit.strategy._spmd import SpmdEngine, recompute, task_model
from trainkit.strategy._world import Group
from trainkit.strategy._world import connect as join

LARGEST_BUCKET = 500_000_000  # elements; DeepSpeed's own default


@dataclass(frozen=True, kw_only=True)
class DeepSpeedWorld(Group):
    """A rank of torch's default process group, which DeepSpeed uses too."""

    @property
    def part(self) -> tuple[int, int]:
        """At least the moments are divided over all ranks."""
        return self.rank, self.size

    def close(self) -> None:
        from deepspeed.comm import comm

        comm.destroy_process_group()
        comm.cdb = None
        _forget_models()


def _forget_models() -> None:
    """Undo what ZeRO-3 leaves in the process: a stack of models, numbers of modules and parameters that all ranks
    have to agree on, whatever each has run before, and its own linear layer in torch's place."""
    from deepspeed.runtime.zero import parameter_offload, partition_parameters

    parameter_offload.FWD_MODULE_STACK.clear()
    parameter_offload.DeepSpeedZeRoOffload._register_deepspeed_module.__defaults__[0][0] = 0
    partition_parameters.Init.param_id = 0
    plain = getattr(partition_parameters.InsertPostInitMethodToModuleSubClasses, "linear_bk", None)
    if plain is not None:
        nn.functional.linear = plain


def connect(device: str, timeout_s: float) -> DeepSpeedWorld:
    """Join the process group that the launcher describes, and show it to DeepSpeed. Collective."""
    world = join(device, timeout_s)
    cpu = world.device.type == "cpu"
    if cpu:
        os.environ["DS_ACCELERATOR"] = "cpu"  # read when DeepSpeed is imported
    try:
        import deepspeed
        from deepspeed.utils import groups
    except ImportError as error:
        raise TrainkitError(f"DeepSpeed cannot be loaded: {error}\n    pip install 'trainkit[deepspeed]'") from error
    if cpu:
        # None of its compiled parts. It would build its shared-memory collectives now, for minutes, and a run killed
        # meanwhile leaves a lock on which every later one hangs.
        deepspeed.ops.__compatible_ops__ = {}
    # DeepSpeed calls two collectives by names that torch 2.13 has given up, and would say so in every step.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+_tensor` is deprecated", FutureWarning)
    deepspeed.init_distributed()
    # The group that its engines use: a copy of all ranks, which it would make with torch's timeout of half an hour.
    groups._WORLD_GROUP = dist.new_group(timeout=timedelta(seconds=timeout_s))
    return DeepSpeedWorld(device=world.device, rank=world.rank, size=world.size, patience=world.patience)


def build(training: Training, world: World, config: dict[str, Any]) -> ZeroEngine:
    """The engine for `config`, what DeepSpeed is to be told (see _zero_config.py)."""
    model = task_model(training, world)
    if training.activation_checkpointing:
        recompute(training.task.blocks(model))
    if training.compile:
        model.compile()
    return ZeroEngine(training, model, world, config)


class ZeroEngine(SpmdEngine):
    """Implements protocols.Engine. The recipe's optimizer steps DeepSpeed's partitions of the fp32 weights."""

    def __init__(self, training: Training, model: nn.Module, world: World, config: dict[str, Any]) -> None:
        import deepspeed

        # The average is one of partitions, below; the optimizer sorts whole parameters into its groups.
        super().__init__(replace(training, ema=None), model, model, world, self._accumulating)
        self._size = super().size()
        named = trainable(model)
        zero = config["zero_optimization"]
        zero.setdefault("reduce_bucket_size", max(1, min(LARGEST_BUCKET, self._size[1])))
        if zero["stage"] == 3:
            _divide(model, world, config)
        self._wrapped: Any = deepspeed.initialize(model=model, optimizer=self.optimizer, config=config)[0]
        self._wrapped.set_gradient_accumulation_boundary(True)
        kind = Stage3 if zero["stage"] == 3 else Stage12
        self.partitions: Partitions = kind(self._wrapped.optimizer, {id(p): name for name, p in named})
        self.average = PartitionAverage(self.partitions, training.ema) if training.ema else None
        self._unseen: dict[str, Any] = {
            name: p.register_hook(self._seen(name))  # type: ignore[no-untyped-call]
            for name, p in named
        }

    @contextmanager
    def _accumulating(self) -> Iterator[None]:
        self._wrapped.set_gradient_accumulation_boundary(False)
        try:
            yield
        finally:
            self._wrapped.set_gradient_accumulation_boundary(True)

    def forward_backward(self, share: Sequence[Batch], weight: float) -> Tensor:
        loss = super().forward_backward(share, weight)
        if self._unseen:
            raise TrainkitError(
                f"DeepSpeed: {', '.join(list(self._unseen)[:3])} took no part in the loss, but is trained\n"
                "    freeze what is not used (requires_grad_(False)), or use it in every forward"
            )
        return loss

    def _seen(self, name: str) -> Callable[[Tensor], None]:
        """A hook that ends itself with the first gradient of `name`. ZeRO would decay a parameter that never has one,
        and stage 3 step it by an old one; under the other strategies it stays as it is, or is refused."""

        def seen(gradient: Tensor) -> None:
            if name in self._unseen:
                self._unseen.pop(name).remove()

        return seen

    def _backward(self, batch: Batch, scale: float) -> Tensor:
        loss = self._loss(batch.to(self.world.device))
        self._wrapped.backward(loss * (scale if batch.weight else 0.0))
        return loss.detach() if batch.weight else torch.zeros_like(loss)

    def update(self, lr: float) -> Tensor:
        for group in self._wrapped.optimizer.param_groups:
            group["lr"] = lr
        self._wrapped.step()
        norm = float(self._wrapped.get_global_grad_norm())
        if not math.isfinite(norm):  # DeepSpeed has dropped the gradients
            self.partitions.dropped()
            self._recall()
        elif self.average is not None:
            self.average.update()
        return torch.tensor(norm, device=self.world.device)

    def discard(self) -> None:
        self.partitions.discard()
        self._recall()

    def size(self) -> tuple[int, int]:
        return self._size

    def _evaluating(self) -> AbstractContextManager[None]:
        return evaluating(self.model, self.average)

    def state_dict(self) -> dict[str, Any]:
        """Of what is divided, this rank's part (see _fragments.py). Live: what is read into it is in the partitions."""
        spans, weights = self.partitions.spans, self.partitions.weights
        state: dict[str, Any] = {
            "model": trained_state(self.model) | {n: s.of(weights[s.partition]) for n, s in spans.items()},
            "optimizer": self.partitions.moments(),
        }
        if self.average is not None:
            averages = list(self.average.state.values())
            state["ema"] = {n: s.of(averages[s.partition]) for n, s in spans.items()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.partitions.publish()


class PartitionAverage(Average):
    """The average of the partitions: each rank blends the part that it holds."""

    def __init__(self, partitions: Partitions, decay: float) -> None:
        super().__init__([(str(i), w) for i, w in enumerate(partitions.weights)], decay)  # type: ignore[misc]
        self._partitions = partitions

    def swap(self) -> None:
        super().swap()
        self._partitions.publish()


def _divide(model: nn.Module, world: World, config: dict[str, Any]) -> None:
    """Divide the parameters of `model` between the ranks, one after the other, before any device holds all of them."""
    import deepspeed

    deepspeed.zero.Init(module=model, config_dict_or_path=config, dtype=torch.float32)
    for buffer in model.buffers():
        buffer.data = buffer.data.to(world.device)
