"""What the front says of this machine is what the ranks will find, and it asks without torch."""

from __future__ import annotations

import subprocess
import sys

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
