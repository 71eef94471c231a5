"""What this machine has, as text, without importing any of it."""

from __future__ import annotations

import importlib.metadata
import platform
import sys

import psutil

from trainkit import __version__
from trainkit.launcher import _machine

BACKENDS = {
    "torch": "",
    "mlflow": "",
    "hydra-core": "",
    "transformers": "pip install 'trainkit[llm]'",
    "peft": "pip install 'trainkit[llm]'",
    "scikit-learn": "pip install 'trainkit[vision]'",
    "accelerate": "pip install accelerate",
    "deepspeed": "pip install deepspeed",
    "horovod": "pip install horovod",
    "ray": "pip install 'ray[train]'",
}


def environment() -> str:
    """One fact per line."""
    memory = psutil.virtual_memory()
    cuda = _machine.torch_cuda()
    names = _machine.gpu_names()
    lines = [
        f"trainkit      {__version__}",
        f"python        {platform.python_version()} ({sys.executable})",
        f"system        {platform.platform()}",
        f"cores         {_machine.cores()}",
        f"memory        {memory.total / 2**30:.1f} GiB, {memory.available / 2**30:.1f} GiB free",
        f"GPUs          {', '.join(names) or 'none'}",
        f"torch build   {f'CUDA {cuda}' if cuda else 'CPU only'}",
    ]
    for package, hint in BACKENDS.items():
        lines.append(f"{package:14}{_version(package) or f'not installed   {hint}'}")
    return "\n".join(lines) + "\n"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
