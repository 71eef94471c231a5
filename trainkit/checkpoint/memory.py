"""Where the snapshots of a run are: in the memory of this machine, as files, so that they outlive all of its processes.
Imports no torch.

    /dev/shm/trainkit-UID/NAME/RUN       the run folder that they belong to
    /dev/shm/trainkit-UID/NAME/step_N/   a checkpoint like any other (manifest.py)
    RUN/logs/memory                      a word drawn at random; NAME is a hash of it and of the run folder's path

So a run folder that is deleted, made anew or copied does not come by what is another's. A machine that starts again has
no snapshots. Several machines would need, of each rank's files, a copy on another one: that belongs between the commit
of a snapshot and the deletion of the one before (snapshots.py), and is not there: `problem` refuses a run on several.
"""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

import psutil
import xxhash

from trainkit.checkpoint import manifest as m
from trainkit.checkpoint.agree import reason
from trainkit.checkpoint.cadence import Tell
from trainkit.errors import CheckpointError, Problem
from trainkit.runfolder import RunFolder, replace_text, sync_folder

ROOT = Path("/dev/shm")
KEY = "checkpoint.memory_every"
OWNER = "RUN"
REMEDY = f"the run goes on without it; if there is no room, mount -o remount,size=... {ROOT}, or set {KEY}=null"


def problem(every: int, hosts: int) -> Problem | None:
    """Why a run on so many machines cannot keep snapshots; None if it can."""
    if hosts > 1:
        return Problem(KEY, every, f"snapshots stay on one machine, and the ranks are on {hosts}", f"set {KEY}=null")
    if not ROOT.is_dir():
        hint = f"mount one (mount -t tmpfs tmpfs {ROOT}), or set {KEY}=null"
        return Problem(KEY, every, f"snapshots are kept in {ROOT}, and there is no such folder", hint)
    try:
        _check_owner()
    except CheckpointError as error:
        return Problem(KEY, every, str(error), f"make it writable, or set {KEY}=null")
    return None


def room(size: int) -> None:
    """Raise CheckpointError if there is no room for a snapshot of `size` bytes: a file system in memory that fills the
    memory has processes killed."""
    free = min(shutil.disk_usage(ROOT).free, psutil.virtual_memory().available)
    if size > free:
        told = f"a snapshot takes {size / 2**20:.1f} MiB, and {ROOT} has {free / 2**20:.1f} MiB free"
        raise CheckpointError(told)


def find(folder: RunFolder) -> Path | None:
    """The place of the run's snapshots, if it has one."""
    try:
        place = _place(folder, folder.memory.read_text())
    except FileNotFoundError:
        return None
    return place if place.is_dir() and mine().stat().st_uid == os.getuid() else None


def make(folder: RunFolder) -> Path:
    """The place of the run's snapshots. What runs left that are gone is deleted."""
    _check_owner()
    mine().mkdir(mode=0o700, exist_ok=True)
    clear()
    if (place := find(folder)) is not None:
        return place
    word = secrets.token_hex(8)
    place, new = _place(folder, word), mine() / f".new-{word}"
    new.mkdir()
    (new / OWNER).write_text(str(folder.root.resolve()))
    folder.memory.parent.mkdir(parents=True, exist_ok=True)
    replace_text(folder.memory, word)
    new.rename(place)  # with its owner in it, or another run would take it for one that is left over
    return place


def clear() -> None:
    """Delete the snapshots of runs whose folder is gone."""
    for place in mine().glob("[!.]*"):
        if not _owned(place):
            shutil.rmtree(place, ignore_errors=True)  # another run may be at the same


def kept(folder: RunFolder) -> list[int]:
    """The steps of the run's snapshots, oldest first."""
    place = find(folder)
    return [] if place is None else m.committed(place)


def give_back(folder: RunFolder, checkpoints: Path, tell: Tell) -> None:
    """All processes of the run are gone: give its memory back. A snapshot that is newer than all in `checkpoints` is
    moved there; while that is not possible, it stays where it is, and is told."""
    place = find(folder)
    if place is None:
        return
    try:
        step = max(m.committed(place), default=-1)
        if step > max(m.committed(checkpoints), default=-1):
            _to_disk(m.step_folder(place, step), checkpoints, tell)
        shutil.rmtree(place)
        folder.memory.unlink()
        with suppress(OSError):  # other runs have theirs in it
            mine().rmdir()
    except OSError as error:
        message = f"what {place} keeps in memory cannot be moved to {checkpoints}: {reason(error)}"
        tell("snapshot_failed", step=step, message=message)


def mine() -> Path:
    """The folder of this user's runs."""
    return ROOT / f"trainkit-{os.getuid()}"


def _place(folder: RunFolder, word: str) -> Path:
    return mine() / xxhash.xxh3_128(f"{folder.root.resolve()} {word}".encode()).hexdigest()


def _owned(place: Path) -> bool:
    """Whether the run of `place` is still there."""
    try:
        return find(RunFolder(Path((place / OWNER).read_text()))) == place
    except OSError:
        return False


def _check_owner() -> None:
    """Everybody may write to /dev/shm, and a checkpoint is trusted: it has a pickle in it."""
    folder = mine()
    if folder.is_dir() and folder.stat().st_uid != os.getuid():
        raise CheckpointError(f"{folder} belongs to another user")
    if not os.access(folder if folder.is_dir() else ROOT, os.W_OK):
        raise CheckpointError(f"{folder} cannot be written to")


def _to_disk(snapshot: Path, checkpoints: Path, tell: Tell) -> None:
    """Make a checkpoint of it that is whole or not there."""
    if problems := m.verify(snapshot):
        tell("snapshot_failed", step=_step(snapshot), message=f"{snapshot} is damaged: {'; '.join(problems)}")
        return
    final, fetching = checkpoints / snapshot.name, checkpoints / f".fetching-{snapshot.name}"
    checkpoints.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(fetching, ignore_errors=True)
    try:
        shutil.copytree(snapshot, fetching)
        for file in fetching.iterdir():
            _sync(file)
        sync_folder(fetching)
        if final.exists():
            m.set_aside(final)
        fetching.rename(final)
        sync_folder(checkpoints)
    except OSError:
        shutil.rmtree(fetching, ignore_errors=True)  # half of it may be what fills the disk
        raise
    tell("snapshot_moved", step=_step(snapshot), path=str(final))


def _step(snapshot: Path) -> int:
    return int(snapshot.name.removeprefix("step_"))


def _sync(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
