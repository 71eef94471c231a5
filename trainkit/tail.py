"""Follow a journal that another process appends to."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class Tail:
    """Complete new lines of `path` at each `poll`. A file that was replaced (a resumed run drops the rows of a lost
    attempt) is read from its beginning again; whoever must not see a row twice looks at what the row says."""

    def __init__(self, path: Path, portion: int = -1) -> None:
        """`portion`: no more bytes than that at a time, where the file may be larger than memory; -1: all there are."""
        self.path, self._portion = path, portion
        self._offset, self._inode, self._rest = 0, -1, b""

    def lines(self) -> list[str]:
        """Whole lines written since the last call, without their ends."""
        try:
            with self.path.open("rb") as f:
                status = os.fstat(f.fileno())
                if status.st_ino != self._inode or status.st_size < self._offset:
                    self._offset, self._inode, self._rest = 0, status.st_ino, b""
                f.seek(self._offset)
                data = f.read(self._portion)
        except FileNotFoundError:
            return []
        self._offset += len(data)
        *whole, self._rest = (self._rest + data).split(b"\n")
        return [line.decode(errors="replace") for line in whole]

    def rows(self) -> list[dict[str, Any]]:
        """The new lines as JSON objects."""
        return [json.loads(line) for line in self.lines()]
