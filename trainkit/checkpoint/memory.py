"""Where the snapshots of a run are: in the memory of each of its machines, as files, so that they outlive all of its
processes. Imports no torch.

    /dev/shm/trainkit-UID/NAME/RUN       the run folder that they belong to
    /dev/shm/trainkit-UID/NAME/HOST      a word drawn at random: ranks that read the same one share a memory
    /dev/shm/trainkit-UID/NAME/step_N/   a checkpoint like any other (manifest.py); of a run on several machines each
                                         has some of its files (neighbours.py)
    RUN/logs/memory                      a word drawn at random; NAME is a hash of it and of the run folder's path

So a run folder that is deleted, made anew or copied does not come by what is another's. The word is another one after
each `rename`, so a machine that was away and comes back does not bring what the run has gone back from. A machine that
starts again has no snapshots.
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
from trainkit.checkpoint.agree import agreed, together
from trainkit.errors import CheckpointError, Problem
from trainkit.protocols import Ranks
from trainkit.runfolder import RunFolder, replace_text

ROOT = Path("/dev/shm")
KEY = "checkpoint.memory_every"
OWNER, HOST = "RUN", "HOST"
REMEDY = f"the run goes on without it; if there is no room, mount -o remount,size=... {ROOT}, or set {KEY}=null"


def problem(every: int) -> Problem | None:
    """Why a run on this machine cannot keep snapshots; None if it can."""
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
    """The place of the run's snapshots, the same on all machines; one of them makes it."""
    if (place := find(folder)) is not None:
        return place
    word = secrets.token_hex(8)
    folder.memory.parent.mkdir(parents=True, exist_ok=True)
    replace_text(folder.memory, word)
    return _place(folder, word)


def enter(folder: RunFolder, place: Path) -> str:
    """Have `place` on this machine; what all that see the same memory read in it. What runs left that are gone is
    deleted."""
    _check_owner()
    mine().mkdir(mode=0o700, exist_ok=True)
    clear(place)
    if not place.is_dir():
        word = secrets.token_hex(8)
        new = mine() / f".new-{word}"
        new.mkdir()
        (new / OWNER).write_text(str(folder.root.resolve()))
        (new / HOST).write_text(word)
        try:
            new.rename(place)  # with its owner in it, or another run would take it for one that is left over
        except OSError:  # another rank was first
            shutil.rmtree(new)
    return (place / HOST).read_text()


def clear(but: Path) -> None:
    """Delete the snapshots of runs whose folder is gone. `but`: its word may have been drawn on another machine, and a
    network disk shows that late."""
    for place in mine().glob("[!.]*"):
        if place != but and not _owned(place):
            shutil.rmtree(place, ignore_errors=True)  # another run may be at the same


def rename(folder: RunFolder, place: Path, ranks: Ranks, leads: bool) -> Path:
    """Give `place` another name, everywhere: what is not reached now is not found any more. `leads`: this rank does it
    on its machine. Collective."""
    word = together(ranks, lambda: secrets.token_hex(8))[0]
    name = together(ranks, lambda: _place(folder, word).name)[0]
    agreed(ranks, lambda: place.rename(mine() / name) if leads else None)
    agreed(ranks, lambda: replace_text(folder.memory, word) if ranks.rank == 0 else None)
    return mine() / name


def kept(folder: RunFolder) -> list[int]:
    """The steps of the run's snapshots, oldest first."""
    place = find(folder)
    return [] if place is None else m.committed(place)


def mine() -> Path:
    """The folder of this user's runs."""
    return ROOT / f"trainkit-{os.getuid()}"


def forget(folder: RunFolder) -> None:
    """Delete the run's snapshots on this machine."""
    if (place := find(folder)) is not None:
        shutil.rmtree(place, ignore_errors=True)  # another keeper of this machine may be at the same
    with suppress(OSError):  # other runs have theirs in it
        mine().rmdir()


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
