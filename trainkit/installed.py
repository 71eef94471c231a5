"""Which versions of what are installed; nothing is imported for it."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from trainkit import __version__

MATTERS = ("torch", "numpy", "transformers", "peft", "accelerate", "deepspeed", "horovod", "mlflow")
"""What a run computes with."""


def installed(distribution: str) -> str | None:
    """Its version; None where it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Of trainkit, Python and those of MATTERS that there are."""
    found = {name: installed(name) for name in MATTERS}
    return {"trainkit": __version__, "python": platform.python_version()} | {n: v for n, v in found.items() if v}
