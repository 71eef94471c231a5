"""What a rank sends and what it holds, as numbers without noise."""

from __future__ import annotations

import ctypes
import importlib.util
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Meter(TorchDispatchMode):
    """Looks at every operation of torch's in this thread, after it is done; those of a DTensor on its parts."""

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented
        result = op(*args, **(kwargs or {}))
        self.look(op, [*args, result])
        return result

    @abstractmethod
    def look(self, op: Any, values: list[Any]) -> None: ...


class Traffic(_Meter):
    """Collectives by name, `calls` and `bytes`: torch's, also where C++ starts them, and Horovod's. One is as large as
    the larger of what goes in and what comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def look(self, op: Any, values: list[Any]) -> None:
        if op.namespace in ("c10d", "_c10d_functional") and "wait" not in op.name():
            self.add(op.name().rpartition("::")[2].removesuffix(".default").strip("_"), values)

    def add(self, name: str, values: list[Any]) -> None:
        self.calls[name] += 1
        self.bytes[name] += max(sum(t.nbytes for t in tree_leaves(v) if isinstance(t, Tensor)) for v in values)

    def summed(self) -> int:
        """The bytes that were summed over ranks: gradients, and what small there is."""
        return sum(size for name, size in self.bytes.items() if "reduce" in name)

    @contextmanager
    def of_horovod(self) -> Iterator[None]:
        """Its collectives pass by torch's dispatcher; within, they are seen as well."""
        if importlib.util.find_spec("horovod") is None:
            yield
            return
        from horovod.torch import mpi_ops

        def counted(name: str, start: Callable[..., Any]) -> Callable[..., Any]:
            def work(tensor: Tensor, *rest: Any) -> Any:
                self.add(name, [tensor])
                return start(tensor, *rest)

            return work

        works = {"_allreduce_async": "allreduce", "_broadcast_async": "broadcast"}
        with patch.multiple(mpi_ops, **{work: counted(name, getattr(mpi_ops, work)) for work, name in works.items()}):
            yield


class Peak(_Meter):
    """`bytes` is the most that was allocated at once over what there was at the beginning."""

    def __init__(self) -> None:
        super().__init__()
        self._before, self.bytes = allocated(), 0

    def look(self, op: Any, values: list[Any]) -> None:
        self.bytes = max(self.bytes, allocated() - self._before)


class _Mallinfo2(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks")),
        *((name, ctypes.c_size_t) for name in ("uordblks", "fordblks", "keepcost")),
    )


_mallinfo2 = ctypes.CDLL(None).mallinfo2  # glibc >= 2.33
_mallinfo2.restype = _Mallinfo2


def allocated() -> int:
    """Bytes that malloc has given out in this process and not got back: in its heaps, and in mappings of their own."""
    info = _mallinfo2()
    return int(info.uordblks + info.hblkhd)


def stored(tensors: Iterable[Tensor]) -> int:
    """Bytes of the memory that `tensors` keep, each counted once: of the whole of which one is a part, too."""
    storages = (t.untyped_storage() for t in tensors)
    return sum({s.data_ptr(): s.nbytes() for s in storages}.values())
