"""What the front says of this machine is what the ranks will find, and it asks without torch."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import pytest
import torch

from trainkit.launcher import _machine


def in_a_new_process(code: str) -> str:
    code = f"import os, sys; from trainkit.launcher import _machine; {code}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_torchs_cuda_is_known_without_importing_torch() -> None:
    said = in_a_new_process("print(_machine.torch_cuda(), _machine.gpus(), 'torch' in sys.modules)")
    assert said.split() == [str(torch.version.cuda), str(torch.cuda.device_count()), "False"]


def test_cores_are_those_this_process_may_use() -> None:
    assert in_a_new_process("os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(_machine.cores())") == "1\n"


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, ["A", "B"]),
        ("", []),
        ("-1", []),
        ("1", ["B"]),
        ("1,0", ["B", "A"]),
        ("0,-1,1", ["A"]),
        ("0,7", ["A"]),
        ("GPU-5e, MIG-2f", ["GPU-5e", "MIG-2f"]),
    ],
)
def test_hidden_gpus_do_not_count(visible: str | None, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As CUDA reads CUDA_VISIBLE_DEVICES: the list ends at the first index that is none."""
    assert _machine.visible(["A", "B"], visible) == names


class Twin(ModuleType):
    """The driver of two GPUs as nvidia-ml-py shows it; processes of each, and what they hold."""

    class NVMLError(Exception): ...

    held: ClassVar[list[list[tuple[int, int | None]]]] = [[(7, 2**30), (8, None)], [(7, 2**20)]]

    def __init__(self, answers: int) -> None:
        super().__init__("pynvml")
        self.answers, self.open = answers, 0

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.held)

    def nvmlDeviceGetHandleByIndex(self, number: int) -> int:
        return number

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[SimpleNamespace]:
        if handle >= self.answers:
            raise self.NVMLError("GPU is lost")
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in self.held[handle]]

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(used=(handle + 1) * 2**30, total=2**33)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> SimpleNamespace:
        if handle >= self.answers:
            raise self.NVMLError("GPU is lost")
        return SimpleNamespace(gpu=90 - handle, memory=40)

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        return 350_000


@pytest.mark.parametrize(("answers", "held"), [(2, {7: 2**30 + 2**20}), (1, {7: 2**30}), (0, {})])
def test_memory_of_gpus_is_that_of_each_process(
    answers: int, held: dict[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    twin = Twin(answers)
    monkeypatch.setitem(sys.modules, "pynvml", twin)
    assert _machine.gpu_memory() == held
    assert twin.open == 0


def test_without_a_driver_no_memory_of_gpus_is_known() -> None:
    if _machine.driver() is None:
        assert _machine.gpu_memory() == {}


def test_the_load_of_gpus_has_the_names_and_units_of_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second tells only what it holds and draws, as a GPU that is divided does."""
    twin = Twin(answers=1)
    monkeypatch.setitem(sys.modules, "pynvml", twin)
    assert _machine.gpu_load() == {
        "gpu_0_memory_usage_percentage": 12.5,
        "gpu_0_memory_usage_megabytes": 1024,
        "gpu_0_utilization_percentage": 90,
        "gpu_0_power_usage_watts": 350,
        "gpu_1_memory_usage_percentage": 25,
        "gpu_1_memory_usage_megabytes": 2048,
        "gpu_1_power_usage_watts": 350,
    }
    assert twin.open == 0


def test_a_driver_that_is_replaced_tells_no_load(monkeypatch: pytest.MonkeyPatch) -> None:
    twin = Twin(answers=2)

    def replaced() -> int:
        raise twin.NVMLError("driver and library do not match")

    twin.nvmlDeviceGetCount = replaced  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "pynvml", twin)
    assert _machine.gpu_load() == {}
    assert twin.open == 0
