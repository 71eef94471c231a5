"""Checkpoints that are whole or not there: written by all ranks, committed by one rename.

    save    .writing-step_N.ATTEMPT/ <- tensors, trainer.json; every file synced, and digested while it is written
            -> all ranks agree that theirs are written -> MANIFEST.json -> COMMITTED -> rename to step_N
    latest  newest step whose marker, manifest and every checksum hold; a damaged one is named and passed over. Where
            there are copies in a store, one that is newer or better is fetched
    load    names, types and shapes compared with the manifest, then read in place
    prune   deletes what retention.py says, once the newest is verified

Names are canonical and tensors are logical: the ranks that read need not be those that wrote. No committed
checkpoint is ever changed, and a fault on one rank is agreed on before anyone waits for anyone.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainkit.checkpoint import manifest as m
from trainkit.checkpoint import retention
from trainkit.checkpoint.agree import Alone, agreed, reason, together
from trainkit.checkpoint.copier import Copier
from trainkit.checkpoint.fetch import fetch, listed
from trainkit.checkpoint.hosts import Hosts
from trainkit.checkpoint.neighbours import spread
from trainkit.checkpoint.remote import Found
from trainkit.errors import CheckpointError, ConfigError, NoGoodCheckpoint, Problem
from trainkit.protocols import Say, World
from trainkit.runfolder import guard, sync_folder
from trainkit.settings import Checkpoint

if TYPE_CHECKING:
    from trainkit.checkpoint.plan import Draft, Drafting

GO_ON = "mend the cause, then give the same command again to go on"


@dataclass(frozen=True, slots=True)
class Saved:
    """One save: what it cost in seconds and in bytes on the disk."""

    step: int
    path: Path
    seconds: float
    bytes: int

    def told(self, stall: float) -> dict[str, Any]:
        """The fields of the `save` event; the loop stood still for `stall` seconds."""
        seconds = {"seconds": round(self.seconds, 3), "stall": round(stall, 3)}
        return {"step": self.step, "path": str(self.path), **seconds, "bytes": self.bytes}


class CheckpointStore:
    """The checkpoints of one run folder. Every method but `prune` is collective: all ranks of `world` call it.

    `about` describes the run (recipe, keys, strategy); it travels in the manifest. `copier` knows of copies elsewhere.
    """

    def __init__(
        self,
        folder: Path,
        world: World,
        attempt: int,
        about: Mapping[str, Any],
        say: Say,
        copier: Copier | None = None,
    ) -> None:
        self.folder, self.attempt, self._copier = folder, attempt, copier
        self._world, self.about, self.say = world, about, say
        self._hosts = Hosts((tuple(range(world.size)),))
        self._drafting: Drafting | None = None
        self._beside: CheckpointStore | None = None
        self._room: Callable[[int], None] | None = None
        self._remedy = ""
        self._saved: int | None = None
        self._damaged: set[int] = set()

    def beside(self, folder: Path, hosts: Hosts, room: Callable[[int], None], remedy: str) -> CheckpointStore:
        """The same, in another folder, of which each of `hosts` has its own. What writes them is shared with this one,
        so only one of both may at a time. `room` is asked before so many bytes are written, and raises CheckpointError
        if there is none; `remedy` is what is told where one cannot be written."""
        other = CheckpointStore(folder, self._world, self.attempt, self.about, self.say)
        other._beside, other._hosts, other._room, other._remedy = self, hosts, room, remedy
        return other

    # ---------------------------------------------------------------------------------------- writing

    def save(self, step: int, state: Mapping[str, Any], trainer: Mapping[str, Any]) -> Saved:
        """Write `state` (nested dict of tensors or DTensors) and `trainer` (plain JSON) as step `step`. A good
        checkpoint of that step, where there is one already, stays as it is.

        Raises CheckpointError on every rank if any rank failed; what was committed before stays as it was.
        """
        return self.begin(step, state, trainer, staged=False)()

    def begin(
        self, step: int, state: Mapping[str, Any], trainer: Mapping[str, Any], staged: bool = True
    ) -> Callable[[], Saved]:
        """The part of `save` that needs the training to stand still; what is returned does the rest. That is again
        collective, raises as `save` does, and has to end before the next save begins. If `staged`, a thread may do it
        while the training goes on: it writes a copy, and has connections of its own to the other ranks.
        """
        started = time.perf_counter()
        try:
            draft = self._drafts().draft(state, staged)
        except CheckpointError as error:
            raise self._unwritten(step, error) from error

        def rest() -> Saved:
            final, size = m.step_folder(self.folder, step), self._write(step, draft, trainer)
            self._saved = step
            self._damaged.discard(step)
            return Saved(step, final, time.perf_counter() - started, size)

        return rest

    def newest(self) -> int:
        """Step of the newest checkpoint here, whether or not it can be trusted; -1 for none; the same on every rank.
        Collective."""
        return int(max(self._world.gather(m.committed(self.folder))[0], default=-1))

    def as_new_as(self, step: int) -> bool:
        """Whether there is a checkpoint of `step`, or a newer one, that can be trusted. Collective."""
        return self.newest() >= step and self.latest(least=step) is not None

    def connect(self) -> None:
        """Do what the first staged save would have to: load what writes, connect the ranks once more. Collective."""
        self._drafts().connect()

    def _drafts(self) -> Drafting:
        if self._beside is not None:
            return self._beside._drafts()
        if self._drafting is None:
            from trainkit.checkpoint.plan import Drafting

            self._drafting = Drafting(self._world)
        return self._drafting

    def _write(self, step: int, draft: Draft, trainer: Mapping[str, Any]) -> int:
        """Write and commit; returns the number of bytes, 0 if a good checkpoint stands there."""
        final, writing = m.step_folder(self.folder, step), self.folder / f".writing-step_{step}.{self.attempt}"
        ranks = draft.ranks

        def describe() -> dict[str, m.Digest]:
            """The files that rank 0 adds to those of all ranks."""
            if ranks.rank != 0:
                return {}
            guard()
            m.write_synced(writing / m.TRAINER, json.dumps(trainer, indent=1))
            added = {**draft.index(writing, written), m.TRAINER: m.digest(writing / m.TRAINER)}
            fields = {"step": step, "attempt": self.attempt, "about": self.about, "tensors": draft.layout()}
            return {**added, m.MANIFEST: m.describe(writing, {**tensors, **added}, fields)}

        def commit() -> None:
            if self._leads():
                m.commit(writing, final, here)
                self._clear(".damaged-*")

        try:
            if all(together(ranks, lambda: self._make_room(writing, final, draft))):
                return 0
            written = draft.write(writing)
            tensors = {name: digest for part in written for name, digest in part.files.items()}
            added = together(ranks, describe)[0]
            here = spread(ranks, self._hosts, [part.files for part in written], added, writing)
            agreed(ranks, commit)
        except CheckpointError as error:
            if self._leads():  # half a checkpoint may be what fills the disk
                shutil.rmtree(writing, ignore_errors=True)
            raise self._unwritten(step, error) from error
        return sum(digest.size for name, digest in {**tensors, **added}.items() if name != m.MANIFEST)

    def _leads(self) -> bool:
        """Whether this rank does what one of those who share the folder has to do."""
        return self._hosts.leads(self._world.rank)

    def _unwritten(self, step: int, error: CheckpointError) -> CheckpointError:
        cause = f"cannot write the checkpoint of step {step} to {self.folder}: {error}"
        return CheckpointError(f"{cause}\n    {self._remedy or f'{intact(self.folder)}; {GO_ON}'}")

    def _make_room(self, writing: Path, final: Path, draft: Draft) -> bool:
        """Whether `final` stands already, as far as this rank can tell. If not, the first of those who share the folder
        clears what killed saves left, moves a damaged `final` out of the way, and makes the folder to write to."""
        if not self._leads():
            return True
        if final.exists() and not m.verify(final):
            return True
        self.folder.mkdir(parents=True, exist_ok=True)
        sync_folder(self.folder.parent)
        self._clear(".writing-*", ".deleted-*", ".fetching-*")
        if final.exists():
            m.set_aside(final)
        if self._room is not None:
            self._room(int(draft.bytes() * self._hosts.part(self._world.rank)))
        writing.mkdir()
        return False

    def _clear(self, *patterns: str) -> None:
        for pattern in patterns:
            for leftover in self.folder.glob(pattern):
                shutil.rmtree(leftover)

    def close(self) -> None:
        """Give back the memory in which saves were staged."""
        if self._drafting is not None:
            self._drafting.release()

    # ---------------------------------------------------------------------------------------- reading

    def latest(self, least: int = 0) -> Path | None:
        """The newest checkpoint that can be trusted. Damaged ones are named through `say` and passed over. The ranks
        divide the reading. Before this process has saved one, a copy in the store counts too, and is fetched.
        Above 0, `least` is a step that the run can go on from without: only what is not older is looked at.

        Raises NoGoodCheckpoint if there are checkpoints and not one of them is good, CheckpointError if a copy cannot
        be fetched.
        """
        here = self._world.gather(m.steps(self.folder))[0]
        copies = self._copies(bool(here) or least > 0)
        damage: list[str] = []
        for step in sorted((step for step in {*here, *copies} if step >= least), reverse=True):
            path = m.step_folder(self.folder, step)
            if step in here:
                if not (problems := self._wrong(path)):
                    return path
                damage.append(f"checkpoint {path} is damaged: {'; '.join(problems)}")
            if step in copies:
                if step in here:
                    self._tell(f"{damage[-1]}; looking at its copy")
                if not (problems := self._fetch(step, copies[step])):
                    return path
                damage.append(f"copy of step {step} in the store is damaged: {'; '.join(problems)}")
            self._damaged.add(step)
            self._tell(f"{damage[-1]}; looking at the one before it")
        if damage and not least:
            raise NoGoodCheckpoint(
                f"no checkpoint in {self.folder} can be trusted:\n    " + "\n    ".join(damage) + "\n"
                "    restore one from a backup, or choose another run.dir to start anew"
            )
        return None

    def _wrong(self, path: Path) -> list[str]:
        """What is wrong with a checkpoint. The ranks divide the reading."""
        shares = self._world.gather(m.verify(path, slice(self._world.rank, None, self._world.size)))
        return list(dict.fromkeys(problem for share in shares for problem in share))

    def _tell(self, text: str) -> None:
        if self._world.rank == 0:
            self.say(text)

    def _copies(self, here: bool) -> Found:
        """The copies in the store that count. Raises CheckpointError if nobody can tell whether there are some, and
        there is nothing `here`: the run would start anew, over what is there."""
        if self._copier is None or not all(self._world.gather(self._saved is None)):
            return {}
        remote = self._copier.remote
        try:
            return listed(remote, self._world)
        except CheckpointError as error:
            told = f"{remote.url} does not tell which checkpoints it has: {error}"
            if not here:
                raise CheckpointError(f"{told}\n    {GO_ON}") from error
            self._tell(f"{told}; going on with those in {self.folder}")
            return {}

    def _fetch(self, step: int, sizes: Mapping[str, int]) -> list[str]:
        """Bring a copy here; what is wrong with it. Raises CheckpointError if the store or the disk fails: it would not
        be right to go on from an older one."""
        if self._copier is None:
            return []
        remote = self._copier.remote
        self._tell(f"fetching {remote.where(step)}")
        try:
            return fetch(remote, step, sorted(sizes), self.folder, self._world)
        except CheckpointError as error:
            raise CheckpointError(f"cannot fetch {remote.where(step)}: {error}\n    {GO_ON}") from error

    def load(self, path: Path, state: dict[str, Any], partial: bool = False) -> dict[str, Any]:
        """Read the verified checkpoint `path` into the tensors of `state`, in place; returns the trainer's state.

        With `partial` the checkpoint may hold more than is asked for; then only this rank reads.
        Raises ConfigError if its tensors are not those of this model, CheckpointError if it cannot be read.
        """
        from trainkit.checkpoint import tensors

        ranks = Alone(self._world.rank) if partial else self._world
        try:
            manifest, trainer = agreed(ranks, lambda: (m.read_manifest(path), m.read_trainer(path)))
            parts = together(ranks, lambda: tensors.layout(state))  # the stages of a pipeline hold different parts
            wanted = {name: entry for part in parts for name, entry in part.items()}
            self._same_model(path, manifest, wanted, partial)
            agreed(ranks, lambda: tensors.read(path, state, self._world.rank, ranks.size == 1))
        except CheckpointError as error:
            raise CheckpointError(f"cannot read the checkpoint {path}: {error}\n    {GO_ON}") from error
        return trainer

    def _same_model(self, path: Path, manifest: Mapping[str, Any], wanted: Mapping[str, Any], partial: bool) -> None:
        stored: dict[str, Any] = manifest["tensors"]
        differences = [
            *_some("it lacks", [name for name in wanted if name not in stored]),
            *_some("it also holds", [] if partial else [name for name in stored if name not in wanted]),
            *_some(
                "of another kind are",
                [
                    f"{name} ({_kind(stored[name])} there, {_kind(entry)} in the model)"
                    for name, entry in wanted.items()
                    if name in stored and entry != stored[name]
                ],
            ),
        ]
        if differences:
            message = f"this checkpoint is of another model: {'; '.join(differences)}"
            raise ConfigError([Problem("run.dir", path, message, self._written_by(manifest["about"]))])

    def _written_by(self, about: Mapping[str, Any]) -> str:
        """What a checkpoint says of the run that wrote it, where that differs from this run."""
        wrote, ours = {**about, **about.get("fixed", {})}, {**self.about, **self.about.get("fixed", {})}
        told = [key for key in wrote if key not in ("fixed", "versions")]  # nobody sets a version to go on
        changed = [f"{key}={wrote[key]}" for key in told if ours.get(key) != wrote[key]]
        hint = f"it was written with {', '.join(changed)}; " if changed else ""
        return f"{hint}set the same again, or choose another run.dir"

    # ------------------------------------------------------------------------------- pruning, copying

    def prune(self, keep: Checkpoint) -> None:
        """Delete what `keep` does not say is to stay; nothing before this store has saved one and it is verified.
        Rank 0 alone does it, so a fault is told and stops nobody."""
        if self._world.rank != 0 or self._saved is None:
            return
        try:
            best = retention.best(self.folder, keep.metric, keep.mode, self._damaged) if keep.metric else None
            old = retention.superseded(self.folder, self._saved, keep.keep, keep.keep_every, best, self._damaged)
            problems = m.verify(m.step_folder(self.folder, self._saved)) if old else []
            if problems:
                self.say(f"no old checkpoint is deleted: step {self._saved} is damaged: {'; '.join(problems)}")
                return
            with self._copier.sparing() if self._copier else nullcontext() as copied:
                for path in old:
                    if path != copied:
                        m.discard(path)
        except OSError as error:
            self.say(f"old checkpoints in {self.folder} cannot be deleted: {reason(error)}")

    def copy(self) -> None:
        """Have the store get what it lacks, behind the training; rank 0 does it."""
        if self._world.rank == 0 and self._copier is not None:
            self._copier.ask(self._saved)


def intact(folder: Path) -> str:
    steps = m.committed(folder)
    return f"the checkpoint of step {steps[-1]} is intact" if steps else "no checkpoint is saved yet"


def _kind(entry: list[Any]) -> str:
    """[dtype, shape] as text."""
    return f"{entry[0]} {entry[1]}"


def _some(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return [f"{what} {', '.join(names[:3])}{more}"]
