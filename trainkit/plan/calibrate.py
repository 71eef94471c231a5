"""Measures this machine: two processes at the same time, as two ranks would share it. Kept as cluster=here."""

from __future__ import annotations

import multiprocessing as mp
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

import psutil

from trainkit.launcher import _machine
from trainkit.plan.machine import GIGA, Link, Machine, keep

RANKS = 2
SIDE = 1024  # of the square matrices that are multiplied
BYTES = 64 * 2**20  # that are copied, or summed over the ranks: more than the caches hold
TIMES = 9


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one of the two found: FLOP/s by precision, bytes/s of memory, seconds of a message and of an all-reduce."""

    fp32: float
    bf16: float
    memory: float
    message: float
    small: float
    large: float


def calibrated() -> Iterator[tuple[str, str]]:
    """Measure and keep; what was found, as names and text."""
    machine = machine_of(measure())
    where = keep(machine)
    yield "products", ", ".join(f"{1000 * rate:.4g} GFLOP/s in {name}" for name, rate in machine.tflops.items())
    yield "memory", f"{machine.memory_gbps:.3g} GB/s for each of {RANKS} ranks, {machine.memory_gb:.3g} GB"
    yield "gloo", f"{machine.node.us:.3g} us a message, {machine.call_us:.3g} us a call, {machine.node.gbps:.3g} GB/s"
    yield "kept in", str(where)


def machine_of(found: list[Measured]) -> Machine:
    """By the slower of the two. An all-reduce of two ranks has two steps, and each rank sends all bytes once."""
    message = max(m.message for m in found)
    small = max(m.small for m in found)
    link = Link(
        gbps=BYTES / GIGA / max(max(m.large for m in found) - small, 1e-9),
        us=1e6 * message,
    )
    return Machine(
        per_node=RANKS,
        memory_gb=psutil.virtual_memory().total / RANKS / GIGA,
        tflops={"fp32": min(m.fp32 for m in found) / 1e12, "bf16": min(m.bf16 for m in found) / 1e12},
        attained=1.0,
        memory_gbps=min(m.memory for m in found) / GIGA,
        node=link,
        network=link,
        call_us=1e6 * max(small - 2 * message, 1e-7),
        overlaps=False,
    )


def measure() -> list[Measured]:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch does not list what it exports

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with mp.get_context("spawn").Pool(RANKS) as pool:
        return pool.starmap(_rank, [(rank, store.port) for rank in range(RANKS)], chunksize=1)


def _rank(rank: int, port: int) -> Measured:
    import torch
    import torch.distributed as dist
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    torch.set_num_threads(max(1, _machine.cores() // RANKS))
    store = TCPStore("127.0.0.1", port, is_master=False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS)
    one, many = torch.zeros(1), torch.zeros(BYTES // 4)
    other = torch.zeros_like(many)

    def product(dtype: torch.dtype) -> float:
        a = torch.ones(SIDE, SIDE, dtype=dtype)
        return 2 * SIDE**3 / seconds(lambda: a @ a)

    def both_ways() -> None:
        (dist.send if rank else dist.recv)(one, 1 - rank)
        (dist.recv if rank else dist.send)(one, 1 - rank)

    try:
        return Measured(
            fp32=product(torch.float32),
            bf16=product(torch.bfloat16),
            memory=2 * BYTES / seconds(lambda: other.copy_(many)),
            message=seconds(both_ways, 10 * TIMES) / 2,
            small=seconds(lambda: dist.all_reduce(one), 10 * TIMES),
            large=seconds(lambda: dist.all_reduce(many)),
        )
    finally:
        dist.destroy_process_group()


def seconds(work: Callable[[], object], times: int = TIMES) -> float:
    """The median of some; the first one, which is not like the others, is not counted."""
    found = []
    for _ in range(times + 1):
        begin = time.perf_counter()
        work()
        found.append(time.perf_counter() - begin)
    return median(found[1:])
