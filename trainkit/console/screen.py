"""Where the front draws: stdout, until it is gone. A closed terminal, `| head`, or a full disk behind `> log` is
no fault of the run."""

from __future__ import annotations

import io
import os
import sys
from typing import IO, TextIO, cast

from rich.console import Console as Rich


def screen() -> Rich:
    """rich on this process' stdout; what can no longer be shown is dropped without an error."""
    return Rich(file=cast(IO[str], _UntilGone(sys.stdout)))


class _UntilGone(io.TextIOBase):
    """`stream`, which the first failed write turns into the null device: what else is printed, and Python's own flush
    at exit, go there too."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]  # rich asks whether it can draw boxes
        return self._stream.encoding

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._drop()

    def _drop(self) -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())
        os.close(null)
