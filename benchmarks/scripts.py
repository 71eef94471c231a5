"""The same training by each framework alone, as one would write it by hand: what trainkit is compared with.

A script gets the steps of one rank, each of them a list of micro-batches, and returns the model to be called. What a
framework can be told that saves memory or time, trainkit's strategies tell it, so these scripts do, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.common import CLIP, make_model, make_optimizer

Share = list[tuple[Tensor, Tensor]]
Script = Callable[[Iterable[Share], int, int], Any]
"""(steps, width of the model, micro-batches of a step) -> model"""


def ddp(steps: Iterable[Share], width: int, passes: int) -> Any:
    from torch.nn.parallel import DistributedDataParallel

    model = DistributedDataParallel(make_model(width), gradient_as_bucket_view=True)
    optimizer = make_optimizer(model.module)
    for share in steps:
        for x, y in share[:-1]:
            with model.no_sync():
                (F.cross_entropy(model(x), y) / passes).backward()
        x, y = share[-1]
        (F.cross_entropy(model(x), y) / passes).backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
    return model


def accelerate(steps: Iterable[Share], width: int, passes: int) -> Any:
    from accelerate import Accelerator, DistributedDataParallelKwargs

    kwargs = DistributedDataParallelKwargs(gradient_as_bucket_view=True)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=passes, kwargs_handlers=[kwargs])
    raw = make_model(width)
    model, optimizer = accelerator.prepare(raw, make_optimizer(raw))
    for share in steps:
        for x, y in share:
            with accelerator.accumulate(model):
                accelerator.backward(F.cross_entropy(model(x), y))
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), CLIP)
                optimizer.step()
                optimizer.zero_grad()
    return model


def horovod(steps: Iterable[Share], width: int, passes: int) -> Any:
    import horovod.torch as hvd

    model = make_model(width)
    named = model.named_parameters()
    optimizer = hvd.DistributedOptimizer(make_optimizer(model), named, backward_passes_per_step=passes)
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    for share in steps:
        for x, y in share:
            (F.cross_entropy(model(x), y) / passes).backward()
        optimizer.synchronize()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        with optimizer.skip_synchronize():
            optimizer.step()
        optimizer.zero_grad()
    return model


def fsdp(steps: Iterable[Share], width: int, passes: int) -> Any:
    from torch.distributed.fsdp import fully_shard

    model: Any = make_model(width)
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer)
    fully_shard(model)
    optimizer = make_optimizer(model)
    for share in steps:
        for i, (x, y) in enumerate(share):
            if passes > 1:
                model.set_requires_gradient_sync(i == passes - 1)
            (F.cross_entropy(model(x), y) / passes).backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
    return model


def zero(stage: int) -> Script:
    def script(steps: Iterable[Share], width: int, passes: int) -> Any:
        import deepspeed

        model = make_model(width)
        config = {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": passes,
            "gradient_clipping": CLIP,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "zero_optimization": {"stage": stage, "reduce_bucket_size": sum(p.numel() for p in model.parameters())},
        }
        engine = deepspeed.initialize(model=model, optimizer=make_optimizer(model), config=config)[0]
        for share in steps:
            for x, y in share:
                engine.backward(F.cross_entropy(engine(x), y))
                engine.step()
        return engine

    return script


SCRIPTS: dict[str, Script] = {
    "ddp": ddp,
    "accelerate": accelerate,
    "horovod": horovod,
    "fsdp": fsdp,
    "zero1": zero(1),
    "zero2": zero(2),
    "zero3": zero(3),
}


@torch.no_grad()
def judge(model: Any, x: Tensor, y: Tensor) -> float:
    """The loss on samples that were not trained on: equal for equal trainings."""
    return F.cross_entropy(model(x), y).item()
