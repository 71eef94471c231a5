"""A committed checkpoint folder: what makes it one, and how to tell. Imports no torch.

    step_N/*.distcp, .metadata   tensors, as torch.distributed.checkpoint writes them
    step_N/trainer.json          the trainer's small state
    step_N/MANIFEST.json         size and checksum of every file, dtype and shape of every tensor, about the run
    step_N/COMMITTED             the manifest's checksum; written last

A flipped bit in tensor data loads without an error in torch, and `.metadata` is a pickle, so every file is checked
before it is read. What is not a checkpoint yet or no longer has a name that begins with a dot: .writing-*, .damaged-*,
.deleted-*.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from trainkit.errors import CheckpointError
from trainkit.runfolder import sync_folder

VERSION = 1
MANIFEST, MARKER, TRAINER = "MANIFEST.json", "COMMITTED", "trainer.json"
BLOCK = 1 << 20  # bytes that are read or written at a time, and digested while they are in the processor's cache
AHEAD = 1 << 25  # bytes that the disk is asked for before they are wanted
UNREAD = ""  # the checksum of what was not read


@dataclass(frozen=True, slots=True)
class Digest:
    """Size in bytes and xxh3-128 of one file."""

    size: int
    xxh3: str


def digest(path: Path) -> Digest:
    """Read `path` once, in blocks."""
    state, size, block = xxhash.xxh3_128(), 0, memoryview(bytearray(BLOCK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            if size % AHEAD == 0:
                os.posix_fadvise(file.fileno(), size + AHEAD, AHEAD, os.POSIX_FADV_WILLNEED)
            state.update(block[:count])
            size += count
    return Digest(size, state.hexdigest())


STEP = re.compile(r"step_(0|[1-9][0-9]*)")
"""The name of a checkpoint's folder."""


def step_folder(folder: Path, step: int) -> Path:
    return folder / f"step_{step}"


def steps(folder: Path) -> list[int]:
    """Steps that have a folder, oldest first. Says nothing of what is in it: see verify()."""
    names = [STEP.fullmatch(path.name) for path in folder.glob("step_*")]
    return sorted(int(name[1]) for name in names if name)


def committed(folder: Path) -> list[int]:
    """Steps whose folder carries a marker, oldest first."""
    return [step for step in steps(folder) if (step_folder(folder, step) / MARKER).exists()]


def write_synced(path: Path, text: str) -> None:
    """Write a small new file and wait until it is on the disk."""
    with path.open("x") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())


def describe(writing: Path, files: Mapping[str, Digest], fields: Mapping[str, Any]) -> Digest:
    """Write the manifest of a checkpoint that has these `files`."""
    listed = {name: [d.size, d.xxh3] for name, d in sorted(files.items())}
    text = json.dumps({"version": VERSION, **fields, "files": listed}, indent=1)
    write_synced(writing / MANIFEST, text)
    return Digest(len(text.encode()), xxhash.xxh3_128(text.encode()).hexdigest())


def commit(writing: Path, final: Path, here: Mapping[str, Digest]) -> None:
    """Turn `writing`, which has the files `here`, its manifest among them, into the checkpoint `final`.

    Raises CheckpointError if a file is not there in its full size: another host wrote it to a disk of its own.
    """
    for name, written in here.items():
        file = writing / name
        if not file.exists() or file.stat().st_size != written.size:
            raise CheckpointError(f"{file} was written, but is not there: checkpoint.dir must be a disk of all hosts")
    write_synced(writing / MARKER, here[MANIFEST].xxh3)
    sync_folder(writing)
    writing.rename(final)
    sync_folder(final.parent)


def read_manifest(path: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((path / MANIFEST).read_text())
    return manifest


def read_trainer(path: Path) -> dict[str, Any]:
    trainer: dict[str, Any] = json.loads((path / TRAINER).read_text())
    return trainer


def discard(path: Path) -> None:
    """Delete a checkpoint. The rename first: a crash in between leaves nothing that looks like one."""
    deleted = path.with_name(f".deleted-{path.name}")
    path.rename(deleted)
    sync_folder(path.parent)
    shutil.rmtree(deleted)


def set_aside(path: Path) -> None:
    """Move a damaged checkpoint out of the way of another one of its step, for a person to look at."""
    path.rename(path.with_name(f".damaged-{path.name}.{time.time_ns()}"))


def verify(path: Path, share: slice = slice(None)) -> list[str]:
    """What is wrong with the checkpoint folder `path`, file by file; empty if it can be trusted.

    `share` says which of its files to read, so that ranks can divide the work.
    """
    return _wrong(path, digest, share)


def glance(path: Path) -> list[str]:
    """As verify(), but files are not read: the manifest is the right one, and each file is there in its full size."""
    return _wrong(path, lambda file: Digest(file.stat().st_size, UNREAD), slice(None))


def files(path: Path) -> dict[str, Digest] | None:
    """All files of a checkpoint but the marker, the manifest among them; None unless the marker vouches for that."""
    if _unsealed(path) is not None:
        return None
    listed = {name: Digest(*entry) for name, entry in read_manifest(path)["files"].items()}
    return listed | {MANIFEST: digest(path / MANIFEST)}


def is_whole(file: Path, wanted: Digest) -> bool:
    """Whether it is there as it was written."""
    try:
        return digest(file) == wanted
    except OSError:
        return False


def _unsealed(path: Path) -> str | None:
    """Why its manifest cannot be believed."""
    content = {}
    for name in (MARKER, MANIFEST):
        try:
            content[name] = (path / name).read_bytes()
        except OSError as error:
            return f"{name}: {error.strerror}"
    text = content[MANIFEST]
    if xxhash.xxh3_128(text).hexdigest().encode() != content[MARKER]:
        return f"{MANIFEST} is not the one that {MARKER} vouches for"
    version = json.loads(text)["version"]
    if version != VERSION:
        return f"{MANIFEST} has format version {version}; this trainkit reads version {VERSION}"
    return None


def _wrong(path: Path, look: Callable[[Path], Digest], share: slice) -> list[str]:
    if (problem := _unsealed(path)) is not None:
        return [problem]
    manifest = read_manifest(path)
    problems = []
    for name, (size, checksum) in list(manifest["files"].items())[share]:
        try:
            found = look(path / name)
        except OSError as error:
            problems.append(f"{name}: {error.strerror}")
            continue
        if found.size != size:
            problems.append(f"{name} has {found.size} bytes instead of {size}")
        elif found.xxh3 not in (checksum, UNREAD):
            problems.append(f"{name} has changed: its checksum is wrong")
    return problems
