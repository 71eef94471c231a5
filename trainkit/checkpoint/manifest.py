"""A committed checkpoint folder: what makes it one, and how to tell. Imports no torch.

    step_N/*.distcp, .metadata   tensors, as torch.distributed.checkpoint writes them
    step_N/trainer.json          the trainer's small state
    step_N/MANIFEST.json         size and checksum of every file, dtype and shape of every tensor, about the run
    step_N/COMMITTED             the manifest's checksum; written last

A flipped bit in tensor data loads without an error in torch, so every file is checked before it is read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from trainkit.runfolder import sync_folder

VERSION = 1
MANIFEST, MARKER, TRAINER = "MANIFEST.json", "COMMITTED", "trainer.json"


@dataclass(frozen=True, slots=True)
class Digest:
    """Size in bytes and xxh3-128 of one file."""

    size: int
    xxh3: str


def digest(path: Path) -> Digest:
    """Read `path` once, in blocks."""
    state, size = xxhash.xxh3_128(), 0
    with path.open("rb") as f:
        while block := f.read(1 << 22):
            state.update(block)
            size += len(block)
    return Digest(size, state.hexdigest())


def step_folder(folder: Path, step: int) -> Path:
    return folder / f"step_{step}"


def committed(folder: Path) -> list[int]:
    """Steps whose folder carries a marker, oldest first. Says nothing of their files: see verify()."""
    steps = [p.parent.name.removeprefix("step_") for p in folder.glob(f"step_*/{MARKER}")]
    return sorted(int(step) for step in steps if step.isdigit())


def write_synced(path: Path, text: str) -> None:
    """Write a small new file and wait until it is on the disk."""
    with path.open("x") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())


def commit(writing: Path, final: Path, files: Mapping[str, Digest], fields: Mapping[str, Any]) -> None:
    """Turn `writing`, whose `files` are on the disk, into the checkpoint `final`."""
    listed = {name: [d.size, d.xxh3] for name, d in sorted(files.items())}
    text = json.dumps({"version": VERSION, **fields, "files": listed}, indent=1)
    sync_folder(writing)
    write_synced(writing / MANIFEST, text)
    sync_folder(writing)
    write_synced(writing / MARKER, xxhash.xxh3_128(text.encode()).hexdigest())
    sync_folder(writing)
    writing.rename(final)
    sync_folder(final.parent)


def read_manifest(path: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((path / MANIFEST).read_text())
    return manifest


def read_trainer(path: Path) -> dict[str, Any]:
    trainer: dict[str, Any] = json.loads((path / TRAINER).read_text())
    return trainer


def verify(path: Path) -> list[str]:
    """What is wrong with the checkpoint folder `path`, file by file; empty if it can be trusted."""
    try:
        text = (path / MANIFEST).read_bytes()
        marker = (path / MARKER).read_text()
    except (OSError, UnicodeDecodeError) as error:
        return [str(error)]
    if xxhash.xxh3_128(text).hexdigest() != marker:
        return [f"{MANIFEST} is not the one that {MARKER} vouches for"]
    manifest = json.loads(text)
    if manifest["version"] != VERSION:
        return [f"{MANIFEST} has format version {manifest['version']}; this trainkit reads version {VERSION}"]
    problems = []
    for name, (size, checksum) in manifest["files"].items():
        file = path / name
        try:
            found = digest(file)
        except OSError as error:
            problems.append(f"{name}: {error.strerror}")
            continue
        if found.size != size:
            problems.append(f"{name} has {found.size} bytes instead of {size}")
        elif found.xxh3 != checksum:
            problems.append(f"{name} has changed: its checksum is wrong")
    return problems
