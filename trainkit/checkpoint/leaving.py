"""When a command ends, the memory of its machines is given back. A snapshot that is newer than all on the disk is moved
there first: every machine brings what it has whole, and one makes a checkpoint of it. Imports no torch.

    give_back (agent) -> kept, bring, forget      on every machine: here, or by its keeper
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import xxhash

from trainkit.checkpoint import manifest as m
from trainkit.checkpoint import memory
from trainkit.checkpoint.agree import reason
from trainkit.checkpoint.cadence import Tell
from trainkit.errors import CheckpointError
from trainkit.runfolder import RunFolder, sync_folder

Everywhere = Callable[..., list[Any]]
"""Has every machine of the run that is left do one of TASKS; what each answers, as JSON has it."""


def give_back(folder: RunFolder, checkpoints: Path, tell: Tell, everywhere: Everywhere) -> None:
    """All ranks of the run are gone. While what only memory has cannot be written to `checkpoints`, it stays where it
    is, and is told; so is what no machine that is left has whole, which is dropped."""
    if not folder.memory.exists():
        return
    step, least = -1, max(m.committed(checkpoints), default=-1)
    try:
        kept = {step for steps in everywhere("kept") for step in steps}
        for step in sorted((step for step in kept if step > least), reverse=True):
            if _moved(step, checkpoints, tell, everywhere):
                break
        everywhere("forget")
        folder.memory.unlink()
    except (CheckpointError, OSError) as error:
        message = f"what is kept in memory cannot be moved to {checkpoints}: {reason(error)}"
        tell("snapshot_failed", step=step, message=message)


def _moved(step: int, checkpoints: Path, tell: Tell, everywhere: Everywhere) -> bool:
    """Make a checkpoint of it that is whole or not there; whether it could be."""
    final = m.step_folder(checkpoints, step)
    fetching = checkpoints / f".fetching-{final.name}"
    shutil.rmtree(fetching, ignore_errors=True)
    fetching.mkdir(parents=True)
    try:
        problems: list[str] = []
        for _ in range(2):  # what one machine has damaged, another one has in the second round
            told = [problem for each in everywhere("bring", step=step, to=str(fetching)) for problem in each]
            problems = m.glance(fetching)
            if not problems:
                break
        if problems:
            message = f"the snapshot of step {step} is damaged: {'; '.join(dict.fromkeys(told or problems))}"
            tell("snapshot_failed", step=step, message=message)
            return False
        sync_folder(fetching)
        if final.exists():
            m.set_aside(final)
        fetching.rename(final)
        sync_folder(checkpoints)
    finally:
        shutil.rmtree(fetching, ignore_errors=True)  # half of it may be what fills the disk
    tell("snapshot_moved", step=step, path=str(final))
    return True


def here(folder: RunFolder, task: str, **about: Any) -> list[Any]:
    """Where the agent's machine is the only one."""
    answer = perform(folder, task, about)
    if "error" in answer:
        raise CheckpointError(answer["error"])
    return [answer["result"]]


def perform(folder: RunFolder, task: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """Do one of TASKS on this machine; its result, or the error."""
    try:
        return {"result": TASKS[task](folder, **about)}
    except Exception as error:  # told to the agent, which may be on another machine
        return {"error": reason(error)}


def bring(folder: RunFolder, step: int, to: str) -> list[str]:
    """Copy what this machine has whole of a snapshot, and no other machine is copying, into the folder `to`, which all
    see. What is wrong with the rest."""
    place = memory.find(folder)
    snapshot = None if place is None else m.step_folder(place, step)
    if snapshot is None or not snapshot.exists():
        return []
    files = m.files(snapshot)
    if files is None:
        return m.verify(snapshot)
    problems = []
    for name, wanted in {**files, m.MARKER: m.digest(snapshot / m.MARKER)}.items():
        try:
            if not _copied(snapshot / name, Path(to) / name, wanted):
                problems.append(f"{name} has changed: its checksum is wrong")
        except (FileExistsError, FileNotFoundError):  # another machine was first, or is the one that has it
            continue
    return problems


def _copied(source: Path, target: Path, wanted: m.Digest) -> bool:
    """Copy it, synced; whether it was whole: else there is no copy."""
    checksum = xxhash.xxh3_128()
    with source.open("rb") as read, target.open("xb") as written:
        while block := read.read(m.BLOCK):
            checksum.update(block)
            written.write(block)
        written.flush()
        os.fsync(written.fileno())
    if checksum.hexdigest() == wanted.xxh3:
        return True
    target.unlink()
    return False


TASKS: Mapping[str, Callable[..., Any]] = {"kept": memory.kept, "bring": bring, "forget": memory.forget}
