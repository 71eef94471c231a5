"""What the kernel does for processes whose parent dies: it sends them a signal, and gives them to another parent."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Sequence
from typing import Any

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36

_libc = ctypes.CDLL(None)
"""Loaded once: between a fork and its exec it is too late for that."""


def follow_parent(number: signal.Signals) -> bool:
    """Have the kernel send this process `number` when its parent dies. False if that has died already."""
    parent = os.getppid()
    _libc.prctl(PR_SET_PDEATHSIG, number)
    return os.getppid() == parent


def start_child(command: Sequence[str], number: signal.Signals, **how: Any) -> subprocess.Popen[bytes]:
    """Start a process, to which the kernel sends `number` when this one dies; `how`: as subprocess.Popen takes it."""
    return subprocess.Popen(command, preexec_fn=lambda: _libc.prctl(PR_SET_PDEATHSIG, number), **how)


def adopt() -> None:
    """From now on, what descends from this process and has lost its parent is a child of this process."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
