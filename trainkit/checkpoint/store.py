"""Checkpoints that are whole or not there: written by all ranks, committed by one rename.

    save    .writing-step_N/ <- tensors (torch.distributed.checkpoint), trainer.json; every file synced and digested
            -> all ranks agree that theirs are written -> MANIFEST.json -> COMMITTED -> rename to step_N
    latest  newest committed step whose every checksum holds; a damaged one is named and passed over
    load    names and shapes compared with the manifest, then read in place

Names are canonical and tensors are logical: the ranks that read need not be those that wrote.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainkit.checkpoint import manifest as m
from trainkit.errors import CheckpointError, ConfigError, Problem
from trainkit.protocols import Say, World
from trainkit.runfolder import sync_folder

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Saved:
    """One save: what it cost in seconds and in bytes on the disk."""

    step: int
    path: Path
    seconds: float
    bytes: int


class CheckpointStore:
    """The checkpoints of one run folder. Every method but `prune` is collective: all ranks of `world` call it.

    `about` describes the run (recipe, keys, strategy); it travels in the manifest.
    """

    def __init__(self, folder: Path, world: World, attempt: int, about: Mapping[str, Any], say: Say) -> None:
        self.folder, self.attempt = folder, attempt
        self._world, self._about, self._say = world, about, say

    # ---------------------------------------------------------------------------------------- writing

    def save(self, step: int, state: Mapping[str, Any], trainer: Mapping[str, Any]) -> Saved:
        """Write `state` (nested dict of tensors or DTensors) and `trainer` (plain JSON) as step `step`.

        Raises CheckpointError on every rank if any rank failed; what was committed before stays as it was.
        """
        begin = time.perf_counter()
        final, writing = m.step_folder(self.folder, step), self.folder / f".writing-step_{step}"
        self._together(lambda: self._begin(writing, final))
        self._together(lambda: self._write_tensors(writing, state))
        digests = self._together(lambda: self._digest_mine(writing))
        files = {name: digest for mine in digests for name, digest in mine.items()}
        self._together(lambda: self._commit(writing, final, step, state, trainer, files))
        size = sum(digest.size for digest in files.values())
        return Saved(step, final, time.perf_counter() - begin, size)

    def _begin(self, writing: Path, final: Path) -> None:
        """Rank 0 clears what a killed save left, and moves a damaged folder of the same step out of the way."""
        if self._world.rank != 0:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob(".writing-*"):
            shutil.rmtree(leftover)
        if final.exists():
            final.rename(final.with_name(f".replaced-{final.name}.{self.attempt}-{time.time_ns()}"))
        writing.mkdir()

    def _write_tensors(self, writing: Path, state: Mapping[str, Any]) -> None:
        import torch.distributed.checkpoint as dcp
        from torch.distributed.checkpoint.api import CheckpointException

        writer = dcp.FileSystemWriter(writing, single_file_per_rank=True, sync_files=True)
        try:
            with _quiet():
                dcp.save(dict(state), storage_writer=writer, no_dist=self._world.size == 1)
        except CheckpointException as error:  # carries the faults of all ranks; the first is the cause
            raise next(iter(error.failures.values()))[0] from error

    def _digest_mine(self, writing: Path) -> dict[str, m.Digest]:
        """Digests of the files this rank wrote; rank 0 also writes the metadata."""
        files = sorted(writing.glob(f"__{self._world.rank}_*.distcp"))
        if self._world.rank == 0:
            files.append(writing / ".metadata")
        return {file.name: m.digest(file) for file in files}

    def _commit(
        self,
        writing: Path,
        final: Path,
        step: int,
        state: Mapping[str, Any],
        trainer: Mapping[str, Any],
        files: dict[str, m.Digest],
    ) -> None:
        if self._world.rank != 0:
            return
        m.write_synced(writing / m.TRAINER, json.dumps(trainer, indent=1))
        files[m.TRAINER] = m.digest(writing / m.TRAINER)
        tensors = {name: [str(t.dtype).removeprefix("torch."), list(t.shape)] for name, t in flat(state).items()}
        m.commit(writing, final, files, {"step": step, "about": self._about, "tensors": tensors})
        for replaced in self.folder.glob(".replaced-*"):
            shutil.rmtree(replaced)

    def _together(self, work: Callable[[], Any]) -> list[Any]:
        """Do `work` on every rank and return all results; if one failed, every rank raises, so that none waits
        for another that has left."""
        try:
            outcome: tuple[bool, Any] = (True, work())
        except Exception as error:  # told to the others, then raised on every rank below
            outcome = (False, reason(error))
        outcomes = self._world.gather(outcome)
        failed = [f"rank {rank}: {text}" for rank, (good, text) in enumerate(outcomes) if not good]
        if failed:
            steps = m.committed(self.folder)
            kept = f"the checkpoint of step {steps[-1]} is intact" if steps else "no checkpoint is saved yet"
            raise CheckpointError(
                f"cannot write a checkpoint to {self.folder}: {'; '.join(failed)}\n"
                f"    {kept}; mend the cause, then give the same command again to go on from there"
            )
        return [result for _, result in outcomes]

    # ---------------------------------------------------------------------------------------- reading

    def latest(self) -> Path | None:
        """The newest checkpoint that can be trusted. Damaged ones are named through `say` and passed over.

        Raises CheckpointError if there are checkpoints and not one of them is good.
        """
        found = newest(self.folder, self._say) if self._world.rank == 0 else None
        path, damage = self._world.gather(found)[0]
        if path is None and damage:
            raise CheckpointError(
                f"no checkpoint in {self.folder} can be trusted:\n    " + "\n    ".join(damage) + "\n"
                "    restore one from a backup, or set resume=never in a new run.dir to start anew"
            )
        return path

    def load(self, path: Path, state: dict[str, Any], partial: bool = False) -> dict[str, Any]:
        """Read the verified checkpoint `path` into the tensors of `state`, in place; returns the trainer's state.

        With `partial` the checkpoint may hold more than is asked for; then only this rank reads.
        Raises ConfigError if its tensors are not those of this model.
        """
        import torch.distributed.checkpoint as dcp

        manifest = m.read_manifest(path)
        self._same_model(path, manifest, flat(state), partial)
        alone = partial or self._world.size == 1
        with _quiet():
            dcp.load(state, storage_reader=dcp.FileSystemReader(path), no_dist=alone)
        return m.read_trainer(path)

    def _same_model(self, path: Path, manifest: dict[str, Any], wanted: Mapping[str, Tensor], partial: bool) -> None:
        stored: dict[str, Any] = manifest["tensors"]
        missing = [name for name in wanted if name not in stored]
        unknown = [] if partial else [name for name in stored if name not in wanted]
        shapes = [
            f"{name} is {stored[name][1]}, the model has {list(t.shape)}"
            for name, t in wanted.items()
            if name in stored and list(t.shape) != stored[name][1]
        ]
        differences = [
            *_some("it lacks", missing),
            *_some("it also holds", unknown),
            *_some("other shapes:", shapes),
        ]
        if differences:
            wrote, ours = manifest["about"].get("fixed", {}), self._about.get("fixed", {})
            changed = [f"{key}={value}" for key, value in wrote.items() if ours.get(key) != value]
            hint = f"it was written with {', '.join(changed)}; " if changed else ""
            raise ConfigError(
                [
                    Problem(
                        "run.dir",
                        path,
                        f"this checkpoint is of another model: {'; '.join(differences)}",
                        f"{hint}set the same again, or choose another run.dir",
                    )
                ]
            )

    # ------------------------------------------------------------------------------------------ pruning

    def prune(self, keep: int, metric: str | None, mode: str) -> None:
        """Delete all but the newest `keep` checkpoints and the one that is best by `metric`. Called after a save, so
        the one that this attempt resumed from goes only when a newer one stands."""
        if self._world.rank != 0:
            return
        steps = m.committed(self.folder)
        kept: set[Path | None] = {m.step_folder(self.folder, step) for step in steps[-keep:]}
        kept.add(best(self.folder, metric, mode) if metric else None)
        for step in steps:
            path = m.step_folder(self.folder, step)
            if path not in kept:
                discard(path)


@contextmanager
def _quiet() -> Iterator[None]:
    """torch warns at every save that a single process is a single process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def newest(folder: Path, say: Say) -> tuple[Path | None, list[str]]:
    """The newest checkpoint whose every checksum holds, and what is wrong with those newer than it."""
    damage: list[str] = []
    for step in reversed(m.committed(folder)):
        path = m.step_folder(folder, step)
        problems = m.verify(path)
        if not problems:
            return path, damage
        damage.append(f"checkpoint {path} is damaged: {'; '.join(problems)}")
        say(f"{damage[-1]}; looking at the one before it")
    return None, damage


def best(folder: Path, metric: str, mode: str) -> Path | None:
    """The checkpoint with the lowest (`mode` 'min') or highest `metric`, the newer one of equals."""
    scores: list[tuple[float, int]] = []
    for step in m.committed(folder):
        value = m.read_trainer(m.step_folder(folder, step))["metrics"].get(metric)
        if value is not None:
            scores.append((value if mode == "max" else -value, step))
    return m.step_folder(folder, max(scores)[1]) if scores else None


def discard(path: Path) -> None:
    """Delete a checkpoint folder; a crash in between leaves no folder that looks committed."""
    (path / m.MARKER).unlink()
    sync_folder(path)
    shutil.rmtree(path)


def flat(state: Mapping[str, Any], prefix: str = "") -> dict[str, Tensor]:
    """Tensors by dotted name."""
    tensors: dict[str, Tensor] = {}
    for name, value in state.items():
        if isinstance(value, Mapping):
            tensors |= flat(value, f"{prefix}{name}.")
        else:
            tensors[f"{prefix}{name}"] = value
    return tensors


def reason(error: BaseException) -> str:
    """The cause of a failed write in plain words."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno == errno.ENOSPC:
            return "the disk is full"
        if isinstance(cause, OSError) and cause.errno == errno.EROFS:
            return "the disk is read-only"
        if isinstance(cause, OSError) and cause.errno is not None:
            return f"{os.strerror(cause.errno)} ({cause.filename})"
        cause = cause.__cause__ or cause.__context__
    return f"{type(error).__name__}: {error}"


def _some(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return [f"{what} {', '.join(names[:3])}{more}"]
