"""Training without trainkit: plain torch, Accelerate's and DeepSpeed's own engines on a rank of the pool, over the same
batches and at the same learning rates as a run of trainkit. Each saves in its own way and then trains on."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.conformance.cells import STRATEGIES
from tests.conformance.decoder import Decoder, DecoderTask
from tests.conformance.settings import make
from trainkit.canonical import trainable
from trainkit.data.order import Order
from trainkit.data.plan import Plan
from trainkit.protocols import Batch, World
from trainkit.settings import Settings


class TiedFrozen(DecoderTask):
    """One parameter in two places, and a block that is not trained."""

    def build_model(self) -> nn.Module:
        model = super().build_model()
        if isinstance(model, Decoder):
            model.head.weight = model.tokens.weight
            model.layers[0].requires_grad_(False)
        return model


STEPS, SAVED = 8, 5
OPTIONS: dict[str, Any] = {"steps": STEPS, "task": TiedFrozen()}


def start(folder: Path) -> tuple[Settings, nn.Module, torch.optim.Optimizer]:
    """The settings of the run that will go on, and its model and optimizer as a program of one's own makes them."""
    settings = make(str(folder), **OPTIONS)
    torch.manual_seed(settings.train.seed)
    model = settings.recipe.build_model().train()
    return settings, model, settings.optimizer.build(trainable(model))


def shares(settings: Settings, rank: int = 0, ranks: int = 1) -> Iterator[tuple[int, Batch, float, float]]:
    """Number from 1, this rank's part of the batch, weight of the whole batch and learning rate of every step."""
    data = settings.recipe.build_data().train
    order, size = Order(len(data), settings.train.seed), settings.train.global_batch
    plans = (Plan(order, size, None, *place).steps(0, STEPS) for place in ((0, 1), (rank, ranks)))
    for i, (whole, mine) in enumerate(zip(*plans, strict=True)):
        weight = data.fetch(whole.micro_batches[0]).weight
        lr = settings.optimizer.lr * settings.schedule.factor(i, STEPS)
        yield i + 1, data.fetch(mine.micro_batches[0]), weight, lr


def set_lr(optimizer: Any, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def with_torch(folder: Path, file: Path) -> dict[str, Tensor]:
    """torch.save of model and optimizer after SAVED steps; returns the weights after STEPS."""
    settings, model, optimizer = start(folder)
    for step, batch, weight, lr in shares(settings):
        set_lr(optimizer, lr)
        (settings.recipe.loss(model(**batch.inputs), batch.targets) / weight).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        if step == SAVED:
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    return model.state_dict()


def with_accelerate(folder: str, target: str) -> dict[str, Tensor]:
    """On a rank of the pool: Accelerator.save_state after SAVED steps; returns the weights after STEPS."""
    world = STRATEGIES["accelerate"].connect("cpu")
    try:
        return _accelerated(world, Path(folder), target)
    finally:
        gc.collect()  # what holds on to the process group goes before it: see test_letting_go.py
        world.close()


def _accelerated(world: World, folder: Path, target: str) -> dict[str, Tensor]:
    from accelerate import Accelerator

    settings, model, optimizer = start(folder)
    accelerator = Accelerator(cpu=True)
    wrapped, stepped = accelerator.prepare(model, optimizer)
    for step, batch, weight, lr in shares(settings, world.rank, world.size):
        set_lr(stepped, lr)
        loss = settings.recipe.loss(wrapped(**batch.inputs), batch.targets)
        accelerator.backward(loss * world.size / weight)
        accelerator.clip_grad_norm_(wrapped.parameters(), 0.5)
        stepped.step()
        stepped.zero_grad()
        if step == SAVED:
            accelerator.save_state(target)
    return model.state_dict()


def with_deepspeed(folder: str, target: str, stage: int) -> dict[str, Tensor]:
    """On a rank of the pool: save_checkpoint of DeepSpeed's engine after SAVED steps, and again after STEPS; returns
    the weights then, from the module or, at stage 3, as DeepSpeed's own script puts them together."""
    world = STRATEGIES[f"zero{stage}"].connect("cpu")
    try:
        import deepspeed
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

        settings, model, optimizer = start(Path(folder))
        zero = {"stage": stage, "stage3_param_persistence_threshold": 0}
        config = {
            "train_micro_batch_size_per_gpu": 1,
            "zero_optimization": zero,
            "gradient_clipping": 0.5,
            "zero_allow_untested_optimizer": True,
        }
        engine = deepspeed.initialize(model=model, optimizer=optimizer, config=config)[0]
        for step, batch, weight, lr in shares(settings, world.rank, world.size):
            set_lr(engine.optimizer, lr)
            engine.backward(settings.recipe.loss(engine(**batch.inputs), batch.targets) * world.size / weight)
            engine.step()
            if step in (SAVED, STEPS):
                engine.save_checkpoint(target if step == SAVED else f"{target}-end")
        if stage < 3:
            return {name: value.clone() for name, value in engine.module.state_dict().items()}
        whole = get_fp32_state_dict_from_zero_checkpoint(f"{target}-end")
        return {name: value.detach() for name, value in whole.items()}
    finally:
        world.close()
