"""Counts the collectives that a rank starts, real or in a fake process group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import _resolve_process_group
from torch.distributed.distributed_c10d import GroupName
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainkit.simulation.values import Collective

KINDS = {
    "_allgather_base_": "all_gather",
    "allgather_": "all_gather",
    "all_gather_into_tensor": "all_gather",
    "_reduce_scatter_base_": "reduce_scatter",
    "reduce_scatter_tensor": "reduce_scatter",
    "allreduce_": "all_reduce",
    "all_reduce": "all_reduce",
    "all_reduce_": "all_reduce",
    "broadcast_": "broadcast",
    "alltoall_base_": "all_to_all",
    "all_to_all_single": "all_to_all",
    "send": "send",
    "recv_": "receive",
}
"""Operations of torch's namespaces c10d and _c10d_functional by what they are."""

NO_TRAFFIC = ("wait_tensor", "_wrap_tensor_autograd", "barrier")


class Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within, collectives are counted by kind and axis. `axes`: names of process groups by what their axis is called.

    Raises NotImplementedError at a collective that it does not know, which would go uncounted."""

    def __init__(self, axes: Mapping[str, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._axes = axes
        self._counts: Counter[tuple[str, str, int]] = Counter()
        self._bytes: Counter[tuple[str, str, int]] = Counter()

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # and is seen again as what it does with this rank's part
        namespace, _, name = op.name().partition("::")
        result = op(*args, **(kwargs or {}))
        if namespace in ("c10d", "_c10d_functional"):
            self._note(op, name.split(".")[0], args, result)
        return result

    def _note(self, op: Any, name: str, args: Any, result: Any) -> None:
        if name in NO_TRAFFIC:
            return
        kind = KINDS.get(name)
        if kind is None:
            raise NotImplementedError(f"{op.name()} is a collective that is not counted")
        names = [argument.name for argument in op._schema.arguments]
        group = _group(args[names.index("process_group" if "process_group" in names else "group_name")])
        key = kind, self._axes.get(group.group_name, "all"), group.size()
        self._counts[key] += 1
        self._bytes[key] += max(_bytes(value) for value in [*args, result])  # the side where the tensors are whole

    def found(self) -> tuple[Collective, ...]:
        return tuple(
            Collective(kind=kind, axis=axis, ranks=ranks, count=count, payload=self._bytes[kind, axis, ranks])
            for (kind, axis, ranks), count in sorted(self._counts.items())
        )


def _bytes(value: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tree_leaves(value) if isinstance(t, Tensor))


def _group(argument: Any) -> Any:
    """The process group that an operation's argument stands for: itself, its name, or boxed."""
    if isinstance(argument, str):
        return _resolve_process_group(GroupName(argument))
    return argument if isinstance(argument, dist.ProcessGroup) else dist.ProcessGroup.unbox(argument)
