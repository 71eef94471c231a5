"""Horovod's world and engine.

    connect   torch's gloo group  ->  where every rank stands, and the port of rank 0's rendezvous server
              ->  hvd.init() on every rank (it meets the others through that server)  ->  server ended

Two sets of connections, then: Horovod carries what is on the device (gradients, weights, sums of metrics), torch's
group the small agreements in host memory and the checkpoints, which are torch's. A rank that ends breaks the ring at
once for the others. One that hangs is given up after `timeout_s` where torch's group waits for it, as it does in every
step; the ring itself knows no timeout (under Gloo, Horovod 0.28's stall inspector sees no missing rank).

The rendezvous server is Horovod's own. It asks nobody who they are, so it listens only on the address of rank 0 that
the launcher gave out (the loopback on one machine), and only until all ranks have met.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from threading import Thread
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainkit.canonical import trainable
from trainkit.errors import TrainkitError
from trainkit.protocols import Batch, Training, World
from trainkit.strategy._spmd import SpmdEngine
from trainkit.strategy._world import Group, pick_device

try:
    import horovod.torch as hvd
except ImportError as error:
    raise TrainkitError(
        f"Horovod cannot be loaded: {error}\n    it fits one torch only; `make horovod` builds it for this one"
    ) from error


@dataclass(frozen=True, kw_only=True)
class HorovodWorld(Group):
    """A rank of Horovod's ring, with torch's gloo group beside it. Shutting Horovod down is agreed on with rank 0, and
    waits for ever where that is gone."""

    lets_go: ClassVar[bool] = False

    def reduce(self, value: Tensor) -> Tensor:
        hvd.allreduce_(value, name="reduce", op=hvd.Sum)
        return value

    def broadcast(self, value: Tensor, source: int = 0) -> Tensor:
        _broadcast({"value": value}, source)
        return value

    def close(self) -> None:
        hvd.shutdown()
        super().close()


# ------------------------------------------------------------------------------------------ rendezvous


@dataclass(frozen=True, slots=True)
class Place:
    """Where a rank stands. `node` is the first rank of its machine; `across` is its position among the ranks with
    the same local rank, one per machine."""

    rank: int
    size: int
    node: int
    local: int
    local_size: int
    across: int
    across_size: int


def places(stands: Sequence[tuple[int, int]]) -> list[Place]:
    """The place of every rank, from (node, local rank) of each in rank order."""
    found = []
    for rank, (node, local) in enumerate(stands):
        nodes = [n for n, other in stands if other == local]
        here = sum(1 for n, _ in stands if n == node)
        found.append(Place(rank, len(stands), node, local, here, nodes.index(node), len(nodes)))
    return found


def connect(device: str, fusion_mb: int, timeout_s: float) -> HorovodWorld:
    """Join the ranks that the launcher describes in torchrun's environment variables. Collective."""
    local = int(os.environ["LOCAL_RANK"])
    chosen = pick_device(device, local)
    if chosen.type == "cuda" and not hvd.nccl_built():
        raise TrainkitError(
            "this Horovod was built without NCCL and cannot reduce on GPUs\n"
            "    install nvcc and NCCL's headers, remove the wheel from trainkit's cache, and run `make horovod`"
        )
    dist.init_process_group("gloo", timeout=timedelta(seconds=timeout_s))
    world = HorovodWorld(device=chosen, rank=dist.get_rank(), size=dist.get_world_size())
    everyone = places(world.gather((world.rank - local, local)))
    with _rendezvous(world, everyone) as (address, port):
        os.environ.update(_variables(everyone[world.rank], address, port, fusion_mb, timeout_s))
        hvd.init()
        world.barrier()
    return world


@contextmanager
def _rendezvous(world: World, everyone: Sequence[Place]) -> Iterator[tuple[str, int]]:
    """Address and port of the server through which the ranks meet; rank 0 runs it meanwhile. The system chooses
    the port, so no two runs on a machine can want the same one."""
    if world.rank != 0:
        yield world.gather(None)[0]
        return
    from horovod.runner.common.util.hosts import SlotInfo
    from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer

    server = RendezvousHTTPServer((socket.gethostbyname(os.environ["MASTER_ADDR"]), 0), RendezvousHandler, 0)
    server.daemon_threads = True
    server.init([SlotInfo(_host(p), p.rank, p.local, p.across, p.size, p.local_size, p.across_size) for p in everyone])
    thread = Thread(target=server.serve_forever, args=(0.01,), name="horovod-rendezvous", daemon=True)
    thread.start()
    try:
        yield world.gather(server.server_address)[0]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _host(place: Place) -> str:
    return f"node{place.node}"


def _variables(place: Place, address: str, port: int, fusion_mb: int, timeout_s: float) -> dict[str, str]:
    """What hvd.init() reads. Set anew each time: an earlier start in this process left its own."""
    variables: dict[str, Any] = {
        "CONTROLLER": "gloo",
        "CPU_OPERATIONS": "gloo",
        "GLOO_RENDEZVOUS_ADDR": address,
        "GLOO_RENDEZVOUS_PORT": port,
        "GLOO_IFACE": os.environ.get("GLOO_SOCKET_IFNAME", ""),  # where torch's gloo talks, too
        "GLOO_TIMEOUT_SECONDS": max(1, int(timeout_s)),
        "FUSION_THRESHOLD": fusion_mb << 20,
        "HOSTNAME": _host(place),
        "RANK": place.rank,
        "SIZE": place.size,
        "LOCAL_RANK": place.local,
        "LOCAL_SIZE": place.local_size,
        "CROSS_RANK": place.across,
        "CROSS_SIZE": place.across_size,
    }
    return {f"HOROVOD_{name}": str(value) for name, value in variables.items()}


# ---------------------------------------------------------------------------------------------- engine


class HorovodEngine(SpmdEngine):
    """The optimizer is Horovod's: its hooks send each gradient off in the last backward of a global batch, as soon
    as it is complete; they are waited for before the norm and the clipping, which are those of the whole gradient.

    The weights are rank 0's from the start. The optimizer's state is not broadcast: a fresh one is the same everywhere
    and would be stepped by the broadcast (horovod.torch.broadcast_optimizer_state runs a step), and a loaded one was
    read by every rank.
    """

    def __init__(self, training: Training, model: nn.Module, world: World) -> None:
        super().__init__(training, model, model, world)
        named = trainable(model)
        self._ring: Any = hvd.DistributedOptimizer(self.optimizer, named_parameters=named, op=hvd.Average)
        self.optimizer = self._ring
        _broadcast(model.state_dict())

    def forward_backward(self, share: Sequence[Batch], weight: float) -> Tensor:
        self._ring.set_backward_passes_per_step(len(share))
        return super().forward_backward(share, weight)

    def _accumulate(self, share: Sequence[Batch], weight: float) -> Tensor:
        loss = super()._accumulate(share, weight)
        self._synchronize()  # here, so that a rank that is gone is noticed before anything is changed
        return loss

    def update(self, lr: float) -> Tensor:
        with self._ring.skip_synchronize():
            return super().update(lr)

    def _synchronize(self) -> None:
        """Wait for the sums. Horovod makes up a gradient of zeros for a parameter that has none, and the optimizer
        would then decay it; under the other strategies such a parameter stays as it is, or is refused."""
        if self.world.size > 1 and any(p.grad is None for p in self.parameters):
            unused = [name for name, p in trainable(self.model) if p.grad is None]
            raise TrainkitError(
                f"strategy=horovod: {', '.join(unused[:3])} took no part in the loss, but is trained\n"
                "    freeze what is not used (requires_grad_(False)), or use it in every forward"
            )
        self._ring.synchronize()

    def _materialise(self) -> None:
        with self._ring.skip_synchronize():
            super()._materialise()


def _broadcast(tensors: dict[str, Tensor], source: int = 0) -> None:
    """Overwrite `tensors` with those of rank `source`. Horovod knows no bfloat16: its bits travel as integers."""
    bits = {n: t.view(torch.int16) if t.dtype == torch.bfloat16 else t for n, t in tensors.items()}
    hvd.broadcast_parameters(bits, root_rank=source)
