"""A look at the disk before every operation that changes it, and faults in any of them.

`watched(root, see)` calls `see(number, what)` before each open for writing, write, fsync, rename, mkdir, unlink and
rmdir that Python code does under `root`; `see` may raise. It keeps book of what has been synced, so that `images`
can build what a kill or a power cut at that moment may leave.
"""

from __future__ import annotations

import builtins
import io
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

See = Callable[[int, str], None]


class Disk:
    def __init__(self, root: Path, see: See) -> None:
        self.root, self._see, self._count = root, see, 0
        self.looking = False  # what `see` itself does to the disk is not told
        self._data: dict[int, bytes] = {}  # inode -> bytes that were synced
        self._names: dict[int, dict[str, int]] = {}  # inode of a folder -> its synced entries
        for folder, _, files in os.walk(root):
            self._sync(Path(folder))
            for file in files:
                self._sync(Path(folder) / file)

    def before(self, what: str) -> None:
        if self.looking:
            return
        self._count += 1
        self.looking = True
        try:
            self._see(self._count, what)
        finally:
            self.looking = False

    def fresh(self, path: Path) -> None:
        """A new file or folder may have the inode of one that was deleted."""
        self._data.pop(path.stat().st_ino, None)
        self._names.pop(path.stat().st_ino, None)

    def synced(self, fd: int) -> None:
        self._sync(Path(f"/proc/self/fd/{fd}").readlink())

    def _sync(self, path: Path) -> None:
        if path.is_dir():
            self._names[path.stat().st_ino] = {entry.name: entry.stat().st_ino for entry in path.iterdir()}
        else:
            self._data[path.stat().st_ino] = path.read_bytes()

    # ------------------------------------------------------------------------------------------ images

    def images(self, target: Path) -> Iterator[tuple[str, Path]]:
        """What may be found after the machine stops now, one after the other in `target`:

        killed     the process is gone, the disk has all that it wrote
        unsynced   power cut: nothing survives that was not synced, neither bytes nor names
        emptied    power cut: all names survive, but only synced bytes (what XFS and ext4 may leave)
        torn       power cut: all names survive, and half of the bytes that were not synced
        """
        builders: dict[str, Callable[[Path], object]] = {
            "killed": lambda image: shutil.copytree(self.root, image),
            "unsynced": lambda image: self._durable(self.root.stat().st_ino, image),
            "emptied": lambda image: self._named(image, 0.0),
            "torn": lambda image: self._named(image, 0.5),
        }
        for name, build in builders.items():
            image = target / name
            shutil.rmtree(image, ignore_errors=True)
            build(image)
            yield name, image

    def _durable(self, inode: int, image: Path) -> None:
        image.mkdir()
        for name, child in self._names.get(inode, {}).items():
            if child in self._data:
                (image / name).write_bytes(self._data[child])
            elif child in self._names:
                self._durable(child, image / name)
            else:  # its name was synced, but nothing of it
                (image / name).touch()

    def _named(self, image: Path, part: float) -> None:
        shutil.copytree(self.root, image)
        for path in self.root.rglob("*"):
            if path.is_file():
                synced, now = self._data.get(path.stat().st_ino, b""), path.read_bytes()
                if synced != now:
                    late = now[len(synced) :]
                    (image / path.relative_to(self.root)).write_bytes(synced + late[: int(part * len(late))])

    def mixed(self, image: Path, draw: random.Random) -> Path:
        """One power cut out of many, in `image`: of each folder survive its synced names, or all; of the bytes of each
        file that were not synced some, the others missing or zeros."""
        shutil.rmtree(image, ignore_errors=True)
        paths = {path.stat().st_ino: path for path in (self.root, *self.root.rglob("*"))}
        self._mixed(self.root.stat().st_ino, paths, image, draw)
        return image

    def _mixed(self, inode: int, paths: dict[int, Path], image: Path, draw: random.Random) -> None:
        image.mkdir()
        now = {entry.name: entry.stat().st_ino for entry in paths[inode].iterdir()} if inode in paths else {}
        names = draw.choice([now, self._names.get(inode, {})])
        for name, child in names.items():
            if child in self._names or (child in paths and paths[child].is_dir()):
                self._mixed(child, paths, image / name, draw)
                continue
            synced = self._data.get(child, b"")
            late = paths[child].read_bytes()[len(synced) :] if child in paths else b""
            kept = draw.choice([0, len(late), draw.randint(0, len(late))])
            lost = bytes(len(late) - kept) if draw.random() < 0.5 else b""
            (image / name).write_bytes(synced + late[:kept] + lost)


class _Raw(io.FileIO):
    """A new file whose every write is told."""

    def __init__(self, path: Any, disk: Disk) -> None:
        disk.before(f"create {Path(path).name}")
        super().__init__(path, "xb")
        disk.fresh(Path(path))
        self._disk = disk

    def write(self, data: Any) -> int:
        self._disk.before(f"write {Path(str(self.name)).name}")
        return super().write(data)


@contextmanager
def watched(root: Path, see: See) -> Iterator[Disk]:
    disk = Disk(root, see)
    with pytest.MonkeyPatch.context() as patch:
        real_open, real_fsync, real_mkdir = io.open, os.fsync, os.mkdir

        def opened(path: Any, mode: str = "r", buffering: int = -1, *rest: Any) -> Any:
            if mode not in ("x", "xb") or disk.looking:
                return real_open(path, mode, buffering, *rest)
            raw = _Raw(path, disk)
            return raw if buffering == 0 else io.TextIOWrapper(io.BufferedWriter(raw), write_through=True)

        def fsync(fd: int) -> None:
            disk.before(f"fsync {Path(f'/proc/self/fd/{fd}').readlink().name}")
            real_fsync(fd)
            disk.synced(fd)

        def mkdir(path: Any, *args: Any, **kwargs: Any) -> None:
            disk.before(f"mkdir {Path(path).name}")
            real_mkdir(path, *args, **kwargs)
            disk.fresh(Path(path))

        def told(name: str) -> Callable[..., Any]:
            real = getattr(os, name)

            def call(path: Any, *args: Any, **kwargs: Any) -> Any:
                disk.before(f"{name} {Path(path).name}")
                return real(path, *args, **kwargs)

            return call

        patch.setattr(io, "open", opened)
        patch.setattr(builtins, "open", opened)
        patch.setattr(os, "fsync", fsync)
        patch.setattr(os, "mkdir", mkdir)
        for name in ("rename", "replace", "unlink", "rmdir"):
            patch.setattr(os, name, told(name))
        yield disk
