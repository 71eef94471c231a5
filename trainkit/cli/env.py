"""env: what this machine and this installation have, as one block for a bug report; what looks like a secret is left
out."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator, Sequence

import psutil

from trainkit import __version__
from trainkit.cli.terminal import show_rows, title
from trainkit.config.bundle import folders
from trainkit.errors import EXIT_DONE, ConfigError, Problem
from trainkit.installed import installed
from trainkit.launcher import _machine
from trainkit.secrets import shown

TELLING = ("CUDA_", "GLOO_", "HF_", "HOROVOD_", "MKL_", "MLFLOW_", "NCCL_", "OMP_", "SLURM_JOB_", "TORCH", "TRAINKIT_")
"""So begin the variables that change how a run behaves."""

PACKAGES = {
    "numpy": "",
    "hydra-core": "",
    "pydantic": "",
    "safetensors": "",
    "mlflow": "",
    "transformers": "pip install 'trainkit[llm]'",
    "peft": "pip install 'trainkit[llm]'",
    "tokenizers": "pip install 'trainkit[llm]'",
    "scikit-learn": "pip install 'trainkit[vision]'",
    "accelerate": "pip install accelerate",
    "deepspeed": "pip install 'trainkit[deepspeed]'",
    "horovod": "pip install horovod",
    "optuna": "pip install 'trainkit[sweep]'",
    "ray": "pip install ray",
}
"""What recipes and backends use besides torch, and how to get it."""


def main(words: Sequence[str]) -> int:
    if words:
        raise ConfigError([Problem("", "", f"env takes no words, but there is {words[0]!r}")])
    title("machine")
    show_rows(machine(), 14)
    title("packages")
    show_rows([(name, installed(name) or f"not installed; {hint}") for name, hint in PACKAGES.items()], 14)
    title("environment variables")
    show_rows(
        [(name, shown(name, value)) for name, value in sorted(os.environ.items()) if name.startswith(TELLING)], 14
    )
    title("folders, the first that has it wins")
    show_rows([(name, ", ".join(str(folder) for folder in folders(name))) for name in ("conf", "recipes")], 14)
    return EXIT_DONE


def machine() -> Iterator[tuple[str, str]]:
    """One line per fact; torch is not imported for it."""
    memory = psutil.virtual_memory()
    names = _machine.gpu_names()
    cuda = _machine.torch_cuda()
    yield "trainkit", __version__
    yield "python", f"{platform.python_version()} ({sys.executable})"
    yield "torch", f"{installed('torch') or 'not installed'}, {f'built for CUDA {cuda}' if cuda else 'CPU only'}"
    yield "GPUs", ", ".join(names) if names else "none"
    yield "driver", _machine.driver() or "none"
    if names and not cuda:
        yield "", "the installed torch cannot use them: install a build with CUDA"
    yield "cores", f"{_machine.cores()} of {platform.processor() or platform.machine()}"
    yield "memory", f"{memory.total / 2**30:.1f} GiB, {memory.available / 2**30:.1f} GiB of it free"
    yield "system", platform.platform()
