"""Tensors to and from a folder, by torch.distributed.checkpoint. Imports it, so is imported where it is used only.

Every file is digested while it is written, and is on the disk when it is closed: reading it again to digest it costs
as much as half the write, and would miss what was damaged on the way.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemWriter, _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.storage import WriteResult
from torch.utils.serialization import config as serialization

from trainkit.canonical import leaves
from trainkit.checkpoint.manifest import BLOCK, Digest
from trainkit.checkpoint.reading import Reader

Layout = dict[str, list[Any]]
"""Of each tensor by its dotted name: dtype and global shape, as JSON holds them."""

AHEAD = 64 << 20  # bytes; so much is sent on to the disk at a time, while more is written


@dataclass(frozen=True, slots=True)
class Written:
    """What one rank wrote: where which data are, and its files."""

    results: list[WriteResult]
    files: dict[str, Digest]


def write(folder: Path, items: SavePlan, source: SavePlanner) -> Written:
    """Write this rank's `items`, whose data `source` has, tensor by tensor into one file, synced. Not collective.

    torch's own writer keeps every copy (of what is on a GPU, or part of something larger) until the file is complete,
    which doubles what a rank holds.
    """
    name, results, files = f"{items.storage_data.prefix}0.distcp", [], _Files()
    # torch's own checksum of a tensor is slower than the disk, and the whole file has one. The patch is this thread's.
    with serialization.patch("save.compute_crc32", False):  # type: ignore[attr-defined]  # made at import
        try:
            with files.create_stream(folder / name, "wb") as stream:
                for item in items.items:
                    value: Any = source.resolve_data(item)
                    begin, tensor = stream.tell(), value.detach().cpu()
                    if tensor.untyped_storage().nbytes() != tensor.nbytes:  # torch.save would write all of that
                        tensor = tensor.clone()
                    torch.save(tensor, stream)
                    size = stream.tell() - begin
                    results.append(WriteResult(item.index, size, _StorageInfo(name, begin, size)))
        except Exception as error:  # torch's zip writer turns a full disk into an error of its own
            raise files.error or error from error
    return Written(results, files.digests)


def finish(folder: Path, whole: Metadata, results: list[list[WriteResult]]) -> dict[str, Digest]:
    """Write the index of what all ranks wrote, synced; one rank does it, when all have written. Returns its file."""
    writer = FileSystemWriter(folder, sync_files=False)  # its files sync themselves
    writer.fs = files = _Files()
    writer.finish(whole, results)
    return files.digests


def whole_layout(whole: Metadata) -> Layout:
    """The layout of the state of all ranks."""
    entries = whole.state_dict_metadata.items()
    return {name: _entry(e.properties.dtype, e.size) for name, e in entries if isinstance(e, TensorStorageMetadata)}


def read(folder: Path, state: dict[str, Any], rank: int, alone: bool) -> None:
    """Read `folder` into the tensors of `state`, in place. Collective unless `alone`: every rank has to come here. If
    any rank fails in it, it raises on those that did, and on no other."""
    with _quiet():
        try:
            load(state, storage_reader=Reader(folder), no_dist=alone)
        except CheckpointException as error:
            if rank in error.failures:  # torch raises the faults of all ranks on every rank
                raise error.failures[rank][0] from error


def layout(state: Mapping[str, Any]) -> Layout:
    """The layout of `state`. Raises TypeError for a value that is no tensor: small state goes to trainer.json."""
    found: Layout = {}
    for name, value in leaves(state):
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"{name} in the engine's state is {type(value).__name__}, not a tensor")
        found[name] = _entry(value.dtype, value.shape)
    return found


def _entry(dtype: torch.dtype, shape: torch.Size) -> list[Any]:
    return [str(dtype).removeprefix("torch."), list(shape)]


@contextmanager
def _quiet() -> Iterator[None]:
    """torch warns at every load that a single process is a single process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


class _Files(FileSystem):
    """New files that are synced and digested; `error` is the first fault in writing one."""

    def __init__(self) -> None:
        self.digests: dict[str, Digest] = {}
        self.error: BaseException | None = None

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[Any]:
        file = _File(Path(path))
        try:
            yield file
            file.close()
        except BaseException as error:
            self.error = self.error or file.error or error
            file.abandon()
            raise
        self.digests[Path(path).name] = file.digest()

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        super().rename(path, new_path)
        self.digests[Path(new_path).name] = self.digests.pop(Path(path).name)


class _File(RawIOBase):
    """A new file, written from its beginning to its end; a thread has the disk take what is there meanwhile. `error` is
    its first fault: torch's zip writer turns that into one of its own, which no longer says that the disk is full."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb", buffering=0)
        self._hash, self._size = xxhash.xxh3_128(), 0
        self._thread, self._sent = ThreadPoolExecutor(1, "trainkit-disk"), 0
        self._sending: Future[None] = Future()
        self._sending.set_result(None)
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        whole = memoryview(data).cast("B")
        done = 0
        while done < len(whole):
            block = whole[done : done + BLOCK]
            try:
                written = self._file.write(block)
                self._send_on()
            except OSError as error:
                self.error = self.error or error
                raise
            self._hash.update(block[:written])
            done += written
            self._size += written
        return done

    def _send_on(self) -> None:
        """Raises what the last sending found: the system tells a fault of the disk once, and no later sync would."""
        if self._size - self._sent < AHEAD or not self._sending.done():
            return
        self._sending.result()
        self._sent, self._sending = self._size, self._thread.submit(os.fdatasync, self._file.fileno())

    def tell(self) -> int:
        return self._size

    def close(self) -> None:
        """Wait until everything is on the disk. Raises OSError if it cannot get there."""
        if not self._file.closed:
            self._sending.result()
            os.fsync(self._file.fileno())
            self.abandon()

    def abandon(self) -> None:
        self._thread.shutdown()
        self._file.close()

    def digest(self) -> Digest:
        return Digest(self._size, self._hash.hexdigest())
