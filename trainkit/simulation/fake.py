"""One rank of many, without the others: torch's fake process group, in which no collective moves anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from trainkit.strategy._mesh import forget_layouts
from trainkit.strategy._tensor import tied
from trainkit.strategy._world import Group


@contextmanager
def fake_rank(rank: int, size: int) -> Iterator[Group]:
    """Within, this process is rank `rank` of `size` and torch's default process group a fake one. Raises RuntimeError
    where there is a process group already: a rank of a real run is not to be lied to."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if dist.is_initialized():
        raise RuntimeError("this process is a rank of a real run: simulate in a process of its own")
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=size)
    group = Group(device=torch.device("cpu"), rank=rank, size=size)
    try:
        yield group
    finally:
        group.close()
        forget_layouts()


def fake_storage(module: nn.Module, device: torch.device) -> None:
    """Give `module`, on torch's meta device, fake tensors on `device`. Call in a FakeTensorMode. Tied parameters stay
    tied."""
    shared = tied(module)
    module.to_empty(device=device)
    for (first, its_name), *others in shared:
        for owner, name in others:
            setattr(owner, name, getattr(first, its_name))


class StagesAgree(TorchDispatchMode):
    """Within, the one question is answered that torch's pipeline schedules ask of a tensor's value, which a fake tensor
    has none of: whether all stages were told the shapes of what they send each other. Ours are (_passes.py)."""

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if op is torch.ops.aten._local_scalar_dense.default and args[0].dtype is torch.int32:
            return 1
        return op(*args, **(kwargs or {}))
