"""One rank of many, without the others: torch's fake process group, in which no collective moves anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainkit.protocols import Task
from trainkit.strategy._mesh import forget_layouts
from trainkit.strategy._tensor import staying_tied
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


def shapes_of(task: Task) -> nn.Module:
    """The task's model in training mode without values, on torch's meta device."""
    try:
        with torch.device("meta"):
            return task.build_model().train()
    except RuntimeError:  # its weights are read from files, onto which transformers' from_pretrained insists
        model = task.build_model().train()
        with staying_tied(model):
            model.to("meta")
        return model


def fake_storage(module: nn.Module, device: torch.device) -> None:
    """Give `module`, on torch's meta device, fake tensors on `device`. Call in a FakeTensorMode."""
    with staying_tied(module):
        module.to_empty(device=device)


class Looked(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within a FakeTensorMode: what code looks at has values. What is made of real tensors only, token ids and
    positions, is computed: a model that sees that nothing is padded leaves out the mask. And the one question that
    torch's pipeline schedules ask of a tensor is answered: whether all stages know the shapes of what they send; ours
    do (_passes.py). While the optimizer steps, `norm` is that of the gradient."""

    def __init__(self, norm: float | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.norm = norm

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if op is torch.ops.aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            if args[0].dtype is torch.float32 and self.norm is not None:
                return self.norm
            if args[0].dtype is not torch.int32:
                raise NotImplementedError("a simulated step needs the value of a tensor that has none")
            return 1
        if any(isinstance(value, FakeTensor) for value in args):  # as most, in a tenth of the time
            return op(*args, **(kwargs or {}))
        given = [t for t in tree_leaves([args, kwargs]) if isinstance(t, Tensor)]
        real = all(type(t) is Tensor and not t.is_meta for t in given)
        if real and (given or op.overloadpacket is torch.ops.aten.arange):
            with unset_fake_temporarily():
                return op(*args, **(kwargs or {}))
        return op(*args, **(kwargs or {}))
