"""What this machine has, found without importing torch."""

from __future__ import annotations

import importlib.util
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0))


def gpus() -> int:
    """GPUs that torch could use here: visible NVIDIA devices, 0 where torch is a build without CUDA."""
    return len(gpu_names()) if torch_cuda() else 0


def gpu_names() -> list[str]:
    """The names of the NVIDIA GPUs that CUDA_VISIBLE_DEVICES leaves visible."""
    found = [name for name, _ in _gpus()]
    return visible(found, os.environ.get("CUDA_VISIBLE_DEVICES"))


def least_gpu() -> int:
    """Bytes of the GPU with the least, visible or not; 0 where there is none."""
    return min((memory for _, memory in _gpus()), default=0)


@contextmanager
def _driver() -> Iterator[Any]:
    """NVIDIA's, within which it can be asked; None where there is none."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def _gpus() -> list[tuple[str, int]]:
    """Name and bytes of memory of every NVIDIA GPU."""
    with _driver() as nvml:
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())] if nvml else []
        return [(str(nvml.nvmlDeviceGetName(h)), int(nvml.nvmlDeviceGetMemoryInfo(h).total)) for h in handles]


def gpu_memory() -> dict[int, int]:
    """Bytes of GPU memory that each process holds, by its number, as far as the driver tells: in a container of its own
    it names none that this machine would know by that."""
    held = Counter[int]()
    with _driver() as nvml:
        if nvml is None:
            return {}
        with suppress(nvml.NVMLError):  # a GPU that does not answer is told of elsewhere
            for number in range(nvml.nvmlDeviceGetCount()):
                for process in nvml.nvmlDeviceGetComputeRunningProcesses(nvml.nvmlDeviceGetHandleByIndex(number)):
                    held[process.pid] += process.usedGpuMemory or 0  # None where the driver does not count
    return {pid: used for pid, used in held.items() if used}


def gpu_load() -> dict[str, float]:
    """How busy every GPU is, in percent, MiB and watts, by the names that MLflow has for that; without what one does
    not tell."""
    load: dict[str, float] = {}
    with _driver() as nvml:
        if nvml is None:
            return {}
        with suppress(nvml.NVMLError):
            for number in range(nvml.nvmlDeviceGetCount()):
                name, handle = f"gpu_{number}", nvml.nvmlDeviceGetHandleByIndex(number)
                with suppress(nvml.NVMLError):
                    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
                    load[f"{name}_memory_usage_percentage"] = 100 * memory.used / memory.total
                    load[f"{name}_memory_usage_megabytes"] = memory.used / 2**20
                with suppress(nvml.NVMLError):
                    load[f"{name}_utilization_percentage"] = nvml.nvmlDeviceGetUtilizationRates(handle).gpu
                with suppress(nvml.NVMLError):
                    load[f"{name}_power_usage_watts"] = nvml.nvmlDeviceGetPowerUsage(handle) / 1000
    return load


def driver() -> str | None:
    """The version of the NVIDIA driver."""
    with _driver() as nvml:
        if nvml is not None:
            with suppress(nvml.NVMLError):
                return str(nvml.nvmlSystemGetDriverVersion())
    return None


def visible(names: list[str], setting: str | None) -> list[str]:
    """What CUDA_VISIBLE_DEVICES=`setting` leaves of `names`. The list ends at the first entry that is no device (CUDA
    C++ Programming Guide, environment variables); one given by its UUID counts under that."""
    if setting is None:
        return names
    left = []
    for device in map(str.strip, setting.split(",")):
        if device.isdigit() and int(device) < len(names):
            left.append(names[int(device)])
        elif device.startswith(("GPU-", "MIG-")):
            left.append(device)
        else:
            break
    return left


def torch_cuda() -> str | None:
    """The CUDA version that the installed torch was built for, read from its version file; None for a CPU build."""
    package = importlib.util.find_spec("torch")
    if package is None or package.origin is None:
        return None
    path = Path(package.origin).with_name("version.py")
    spec = importlib.util.spec_from_file_location("_torch_version", path)
    if spec is None or spec.loader is None:
        return None
    version = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(version)
    return version.cuda  # type: ignore[no-any-return]  # written by torch's build: str or None
