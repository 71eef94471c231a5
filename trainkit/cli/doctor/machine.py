"""Interpreter, torch, memory, shared memory and limits of this process."""

from __future__ import annotations

import os
import platform
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from trainkit.cli.doctor.check import Check, least
from trainkit.cli.terminal import size
from trainkit.installed import installed
from trainkit.launcher import _machine

GIB = float(2**30)
CGROUP = Path("/sys/fs/cgroup")
SHM = Path("/dev/shm")
DOCKER_SHM = 64 * 2**20
FILES, PROCESSES = (256.0, 4096.0), (128.0, 2048.0)


def checks() -> Iterator[Check]:
    yield python(sys.version_info[:2])
    yield torch()
    yield memory(psutil.virtual_memory().available, container_left(CGROUP))
    yield shared_memory(SHM)
    yield limit("open files", resource.RLIMIT_NOFILE, FILES, "ulimit -n")
    yield limit("processes", resource.RLIMIT_NPROC, PROCESSES, "ulimit -u")


def python(version: tuple[int, int]) -> Check:
    found = f"{platform.python_version()} ({sys.executable})"
    return Check("Python", "ok", found) if version >= (3, 11) else Check("Python", "fault", found, "3.11 or newer")


def torch() -> Check:
    version, gpus, cuda = installed("torch"), _machine.gpu_names(), _machine.torch_cuda()
    if version is None:
        return Check("torch", "fault", "is not installed", "pip install torch")
    if gpus and cuda is None:
        return Check(
            "torch", "warning", f"{version} has no CUDA, so that {len(gpus)} GPUs lie idle", "install a CUDA build"
        )
    return Check(
        "torch", "ok", f"{version}, {f'CUDA {cuda}, {len(gpus)} GPUs' if gpus else 'CPU only: there is no GPU'}"
    )


def container_left(cgroup: Path) -> int | None:
    """Bytes of memory that the container may still take; None without a limit."""
    try:
        most, used = ((cgroup / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return None
    return None if most == "max" else int(most) - int(used)


def memory(free: int, container: int | None) -> Check:
    """The kernel ends a process that takes more than there is."""
    left, whose = (free, "") if container is None or container > free else (container, " left to this container")
    remedy = "smaller train.micro_batch, train.activation_checkpointing=true, or end what else runs here"
    return least("memory", left, (GIB / 4, GIB), f"{size(left)} free{whose}", remedy)


def shared_memory(folder: Path) -> Check:
    """Loaders of data and snapshots use it."""
    if not os.access(folder, os.W_OK):
        return Check("shared memory", "fault", f"{folder} cannot be written", f"mount a tmpfs on {folder}")
    about = os.statvfs(folder)
    free = about.f_bavail * about.f_frsize
    remedy = "docker run --shm-size=8g; data.workers and checkpoint.memory_every need it"
    return least("shared memory", free, (1, DOCKER_SHM + 1), f"{size(free)} free in {folder}", remedy)


def limit(what: str, kind: int, low: tuple[float, float], how: str) -> Check:
    soft, hard = resource.getrlimit(kind)
    if soft == resource.RLIM_INFINITY:
        return Check(what, "ok", f"no limit ({how})")
    most = "no limit" if hard == resource.RLIM_INFINITY else str(hard)
    return least(what, soft, low, f"at most {soft} ({how}; may be raised to {most})", f"{how} {low[1]:.0f}")
