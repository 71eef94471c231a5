"""Files from the memory of one host to that of another, over the connections that the ranks have. Imports torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import torch
import xxhash
from torch import Tensor

from trainkit.checkpoint.agree import reason
from trainkit.checkpoint.hosts import Move
from trainkit.checkpoint.manifest import Digest
from trainkit.errors import CheckpointError
from trainkit.protocols import Ranks

CHUNK, AT_ONCE = 4 << 20, 16
"""Bytes of a message; moves on their way at a time: a rank that has part in all of them needs 64 MiB."""


def transfer(ranks: Ranks, moves: Sequence[Move], files: Mapping[str, Digest], folder: Path) -> None:
    """Do what `moves` say, from `folder` to `folder` of another host. Every rank calls it, with the same `moves`.

    A fault is raised, as CheckpointError, when all is over: until then the others get something in its place, and
    what arrives is compared with its checksum.
    """
    faults: list[str] = []
    for first in range(0, len(moves), AT_ONCE):
        # Each rank does its part of the same list in the same order, so nobody waits for one that waits for him.
        ends = [
            _End(move, files[move.name], folder, sends=ranks.rank == move.source)
            for move in moves[first : first + AT_ONCE]
            if ranks.rank in (move.source, move.target)
        ]
        while open_ends := [end for end in ends if end.left > 0]:
            ready = [(end, end.ready()) for end in open_ends]
            ranks.exchange(
                [(end.peer, tensor) for end, tensor in ready if end.sends],
                [(end.peer, tensor) for end, tensor in ready if not end.sends],
            )
            for end, tensor in ready:
                end.done(tensor)
        faults += [fault for end in ends if (fault := end.close()) is not None]
    if faults:
        raise CheckpointError("; ".join(faults))


class _End:
    """One end of a move. `left`: bytes that are still to come or to go."""

    def __init__(self, move: Move, wanted: Digest, folder: Path, sends: bool) -> None:
        self.sends, self.peer = sends, move.target if sends else move.source
        self._name, self._wanted, self.left = move.name, wanted, wanted.size
        self._hash, self._fault = xxhash.xxh3_128(), ""
        self._buffer = bytearray(min(CHUNK, wanted.size))
        self._file: BinaryIO | None = None
        try:
            self._file = (folder / move.name).open("rb" if sends else "wb", buffering=0)
        except OSError as error:
            self._fault = reason(error)

    def ready(self) -> Tensor:
        """The next message: with what is to go, or for what is to come."""
        size = min(CHUNK, self.left)
        if self.sends and self._file is not None:
            try:
                self._file.readinto(memoryview(self._buffer)[:size])  # type: ignore[attr-defined]  # a raw file
            except OSError as error:
                self._fail(error)
        return torch.frombuffer(self._buffer, dtype=torch.uint8, count=size)

    def done(self, message: Tensor) -> None:
        self.left -= message.numel()
        if self.sends or self._file is None:
            return
        rest = memoryview(self._buffer)[: message.numel()]
        self._hash.update(rest)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._fail(error)

    def close(self) -> str | None:
        """What went wrong, once it is over."""
        if self._file is not None:
            self._file.close()
        if not self.sends and not self._fault and self._hash.hexdigest() != self._wanted.xxh3:
            self._fault = f"it has not come from rank {self.peer} as it was written"
        return f"{self._name}: {self._fault}" if self._fault else None

    def _fail(self, error: OSError) -> None:
        self._fault = self._fault or reason(error)
        if self._file is not None:
            self._file.close()
            self._file = None
