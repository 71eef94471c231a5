"""Where a rank stands, and how it talks to the others. `Solo` is the null object of the single process, so that
no caller asks whether there is a process group."""

from __future__ import annotations

import os
import pickle
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # else it would have a group as its default, and keep it for good
from torch import Tensor

from trainkit.protocols import Ranks
from trainkit.strategy._patience import Patience


def pick_device(device: str, local_rank: int) -> torch.device:
    """The device of this rank: `auto` takes a GPU where there is one. Its own GPU becomes torch's current one."""
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    chosen = torch.device("cuda", local_rank)
    torch.cuda.set_device(chosen)
    return chosen


@dataclass(frozen=True, kw_only=True)
class Solo:
    """One process alone."""

    device: torch.device
    rank: int = 0
    size: int = 1
    dp_rank: int = 0
    dp_size: int = 1
    part: tuple[int, int] = (0, 1)
    lets_go: bool = True

    def total(self, values: Sequence[float]) -> list[float]:
        return list(values)

    def reduce(self, value: Tensor) -> Tensor:
        return value

    def broadcast(self, value: Tensor, source: int = 0) -> Tensor:
        return value

    def hand_on(self, value: Tensor, source: int) -> Tensor:
        return value

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def exchange(self, outgoing: Sequence[tuple[int, Tensor]], incoming: Sequence[tuple[int, Tensor]]) -> None:
        pass

    def barrier(self) -> None:
        pass

    def apart(self) -> Ranks:
        return self

    def close(self) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class Group:
    """A rank of torch's default process group, all of it one data-parallel axis, with the whole model.

    The group carries gloo for host memory and, on GPUs, NCCL for device memory: small agreements between ranks
    (`total`, `gather`) never wait for the device, and with `patience` not for a dead rank.
    """

    device: torch.device
    rank: int
    size: int
    patience: Patience = field(default_factory=Patience, repr=False, compare=False)
    lets_go: ClassVar[bool] = True

    @property
    def dp_rank(self) -> int:
        return self.rank

    @property
    def dp_size(self) -> int:
        return self.size

    @property
    def part(self) -> tuple[int, int]:
        return 0, 1

    def total(self, values: Sequence[float]) -> list[float]:
        return self.add_up(torch.tensor(values, dtype=torch.float64)).tolist()

    def reduce(self, value: Tensor) -> Tensor:
        return self.add_up(value)

    def broadcast(self, value: Tensor, source: int = 0) -> Tensor:
        return self.pass_on(value, source)

    def hand_on(self, value: Tensor, source: int) -> Tensor:
        return self.pass_on(value, source)

    def add_up(self, value: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
        """The sum over the ranks of `group`, in place. What is on a GPU waits in its stream."""
        self.patience(dist.all_reduce(value, group=group, async_op=value.device.type == "cpu"), group)
        return value

    def pass_on(self, value: Tensor, source: int, group: dist.ProcessGroup | None = None) -> Tensor:
        """The tensor `value` of rank `source` to those of `group`, in place, as `add_up`."""
        self.patience(dist.broadcast(value, source, group=group, async_op=value.device.type == "cpu"), group)
        return value

    def gather(self, value: Any) -> list[Any]:
        return _gather(value, self.size, None, self.patience)

    def exchange(self, outgoing: Sequence[tuple[int, Tensor]], incoming: Sequence[tuple[int, Tensor]]) -> None:
        _exchange(outgoing, incoming, None, self.patience)

    def barrier(self) -> None:
        self.total([0.0])

    def apart(self) -> Ranks:
        group = dist.new_group(backend="gloo")
        return Apart(rank=self.rank, size=self.size, group=group, patience=self.patience)

    def close(self) -> None:
        dist.destroy_process_group()


@dataclass(frozen=True, kw_only=True)
class Apart:
    """The ranks of the default process group over a second gloo group. Two threads must not share one: it matches
    collectives by their order."""

    rank: int
    size: int
    group: dist.ProcessGroup
    patience: Patience

    def gather(self, value: Any) -> list[Any]:
        return _gather(value, self.size, self.group, self.patience)

    def exchange(self, outgoing: Sequence[tuple[int, Tensor]], incoming: Sequence[tuple[int, Tensor]]) -> None:
        _exchange(outgoing, incoming, self.group, self.patience)


def _gather(value: Any, size: int, group: dist.ProcessGroup | None, patience: Patience) -> list[Any]:
    """As torch's all_gather_object, which cannot be given up."""

    def everyones(tensor: Tensor) -> list[Tensor]:
        found = [torch.empty_like(tensor) for _ in range(size)]
        patience(dist.all_gather(found, tensor, group=group, async_op=True), group)
        return found

    mine = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)
    sizes = [int(length) for length in everyones(torch.tensor([len(mine)]))]
    padded = torch.zeros(max(sizes), dtype=torch.uint8)
    padded[: len(mine)] = mine
    return [pickle.loads(one[:length].numpy().tobytes()) for one, length in zip(everyones(padded), sizes, strict=True)]


def _exchange(
    outgoing: Sequence[tuple[int, Tensor]],
    incoming: Sequence[tuple[int, Tensor]],
    group: dist.ProcessGroup | None,
    patience: Patience,
) -> None:
    """All at once. What goes between the same two has a number, in the order of both."""
    works = []
    for move, parcels in ((dist.isend, outgoing), (dist.irecv, incoming)):
        numbers: Counter[int] = Counter()
        for peer, tensor in parcels:
            works.append(move(tensor, peer, group=group, tag=numbers[peer]))
            numbers[peer] += 1
    for work in works:
        if work is not None:  # None where this rank is not of the group
            patience.beside(work.wait, group)


def connect(device: str, timeout_s: float) -> Group:
    """Join the process group that the launcher describes in torchrun's environment variables."""
    chosen = pick_device(device, int(os.environ["LOCAL_RANK"]))
    backend = "gloo" if chosen.type == "cpu" else "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
    return Group(device=chosen, rank=dist.get_rank(), size=dist.get_world_size())
