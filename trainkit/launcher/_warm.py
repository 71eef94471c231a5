"""Imports what the ranks have imported, so that those of the next attempt are forked with it: a library such as
transformers takes seconds to import, and a run that has lost a rank would wait for it.

Only a process of one thread that has not touched a GPU can be forked. Whether the imports leave it so is tried out in a
child first.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

SLICE_S = 0.1
NICE = 19  # training comes first


def note(path: Path) -> None:
    """Write which modules this process has imported, in that order; a rank does it after its first step."""
    path.write_text("\n".join(sys.modules))


class WarmUp:
    """Imports what is `noted` by a rank into this process, a little at each turn, if that is safe. `trial`: the child
    that tries it out, while it does; else 0."""

    def __init__(self, noted: Path) -> None:
        self._turns, self.trial = self._import(noted), 0

    def turn(self) -> bool:
        """Whether there is more to do."""
        return next(self._turns, self) is None

    def _import(self, noted: Path) -> Iterator[None]:
        while not noted.exists():
            yield
        names = [name for name in noted.read_text().split("\n") if name not in sys.modules]
        self.trial, status = _try_out(names), None
        while status is None:
            yield
            pid, ended = os.waitpid(self.trial, os.WNOHANG)
            status = ended if pid else None
        self.trial = 0
        if os.waitstatus_to_exitcode(status) != 0:
            return
        until = time.monotonic() + SLICE_S
        for name in names:
            _bring(name)
            if time.monotonic() > until:
                yield
                until = time.monotonic() + SLICE_S


def bring(noted: Path) -> Iterator[None]:
    """Import what is `noted` by a rank, as soon as it is: into a process that is not going to be forked."""
    while not noted.exists():
        yield
    for name in noted.read_text().split("\n"):
        _bring(name)


def _try_out(names: Sequence[str]) -> int:
    """A child that imports `names`; it exits with 0 if it has no more threads then, and no CUDA context."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.nice(NICE)
        before = _threads()
        for name in names:
            _bring(name)
        import torch

        touched: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        os._exit(int(touched or _threads() > before))
    finally:
        os._exit(1)


def _bring(name: str) -> None:
    with suppress(Exception):  # what a library has made up as it went along has no file to be imported from
        importlib.import_module(name)


def _threads() -> int:
    return len([*Path("/proc/self/task").iterdir()])
