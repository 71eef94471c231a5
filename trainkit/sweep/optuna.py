"""Members that Optuna chooses after what the ones before came to.

    SWEEP/optuna.journal   Optuna's own storage: every trial, its values and its end
    SWEEP/logs/N.lock      held by the process that runs trial N

Several processes may work on one sweep, and each may be killed at any time: the kernel gives its locks back, and a
trial that is open in the journal while nobody holds its lock is taken up by the next who asks. A trial that failed
stays open too, as another command may go on from its checkpoint.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import optuna
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from trainkit.config.space import Space
from trainkit.errors import ConfigError, TrainkitError
from trainkit.resilience.lock import RunLock
from trainkit.runfolder import drop_torn_line
from trainkit.sweep.member import Member, Result, named
from trainkit.sweep.record import Asked, SweepFolder

SAMPLERS = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
PRUNERS = {
    "none": optuna.pruners.NopPruner,
    "median": optuna.pruners.MedianPruner,
    "hyperband": optuna.pruners.HyperbandPruner,
}
DIRECTIONS = {"min": StudyDirection.MINIMIZE, "max": StudyDirection.MAXIMIZE}


PRUNED = "pruned"
"""The attribute of a trial that is to be pruned: after which evaluation that was decided."""


class KernelLock(JournalFileOpenLock):
    """A lock that ends with the process that holds it. Optuna's own would stay behind one that is killed."""

    def __init__(self, path: Path) -> None:
        self._path, self._fd = path, -1

    def acquire(self) -> bool:
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        os.close(self._fd)


class Study:
    """A Sampler (sampler.py) over Optuna's study in the folder of the sweep."""

    def __init__(self, sweep: SweepFolder, asked: Asked) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._sweep, self._asked = sweep, asked
        journal, logs = sweep.root / "optuna.journal", sweep.root / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        # Held while a trial is handed out, so that nobody takes it up in between.
        self._desk = KernelLock(logs / "desk.lock")
        written = KernelLock(logs / "journal.lock")
        written.acquire()
        drop_torn_line(journal)
        written.release()
        self._study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(journal), lock_obj=written)),
            study_name="sweep",
            load_if_exists=True,
            sampler=SAMPLERS[asked.sampler](),
            pruner=PRUNERS[asked.prune](),
            direction=DIRECTIONS[asked.mode],
        )
        self._mine: dict[str, tuple[Trial, RunLock]] = {}
        self._seen: set[int] = set()

    def members(self) -> Mapping[str, Member]:
        trials = [trial for trial in self._study.get_trials(deepcopy=False) if self._whole(trial)]
        members = [named(self._values(trial.params), trial.number) for trial in trials]
        return {member.name: member for member in members}

    def next(self) -> Member | None:
        self._desk.acquire()
        try:
            trials = self._study.get_trials(deepcopy=False)
            for frozen in trials:
                if frozen.state is TrialState.RUNNING and frozen.number not in self._seen:
                    with suppress(ConfigError):  # somebody is at work on it
                        return self._take(Trial(self._study, frozen._trial_id))
            return self._take(self._study.ask()) if len(trials) < (self._asked.trials or 0) else None
        finally:
            self._desk.release()

    def _take(self, trial: Trial) -> Member:
        """The member of an open trial, with what is not drawn yet. Raises ConfigError if another process has it."""
        lock = RunLock(self._sweep.root / "logs" / f"{trial.number}.lock", self._sweep.root)
        self._seen.add(trial.number)
        values = self._values({space.key: _suggest(trial, space) for space in self._asked.spaces})
        member = named(values, trial.number)
        self._mine[member.name] = trial, lock
        return member

    def prune(self, member: Member, values: Sequence[float]) -> bool:
        trial, _ = self._mine[member.name]
        if PRUNED in trial.user_attrs:
            return True
        known = self._study.get_trials(deepcopy=False)[trial.number].intermediate_values
        for number, value in enumerate(values, start=1):
            if number not in known:
                trial.report(value, number)
                if trial.should_prune():
                    trial.set_user_attr(PRUNED, number)  # some pruners judge once: it must outlive this process
                    return True
        return False

    def tell(self, member: Member, result: Result) -> None:
        trial, lock = self._mine.pop(member.name)
        if result.status == "pruned":
            self._study.tell(trial, state=TrialState.PRUNED)
        elif result.counts:
            self._study.tell(trial, result.value)
        elif result.status == "done" and result.value is not None:
            self._study.tell(trial, state=TrialState.FAIL)
        elif result.status == "done":
            raise TrainkitError(f"member {member.name} is done, and its metrics.jsonl has no {self._asked.metric}")
        lock.release()

    def judged(self, member: Member, result: Result) -> Result:
        trial = self._study.get_trials(deepcopy=False)[int(member.name.partition("_")[0])]
        if trial.state is not TrialState.PRUNED:
            return result
        return Result("pruned", result.step, result.value, f"pruned after {len(trial.intermediate_values)} evaluations")

    def _whole(self, trial: FrozenTrial) -> bool:
        return all(space.key in trial.params for space in self._asked.spaces)

    def _values(self, params: Mapping[str, object]) -> dict[str, str]:
        """What was drawn, as it would be typed."""
        return {space.key: _typed(space, params[space.key]) for space in self._asked.spaces}


def _suggest(trial: Trial, space: Space) -> object:
    """What the trial has for a key. A trial that has it already says the same again."""
    if space.values and not space.step:
        return trial.suggest_categorical(space.key, space.values)
    if space.values:  # their order means something, so it is their numbers that are drawn
        return trial.suggest_int(space.key, 0, len(space.values) - 1)
    if space.whole:
        return trial.suggest_int(space.key, int(space.low), int(space.high), log=space.log)
    return trial.suggest_float(space.key, space.low, space.high, log=space.log)


def _typed(space: Space, drawn: object) -> str:
    if isinstance(drawn, str):
        return drawn
    number = float(str(drawn))
    return space.values[int(number)] if space.values else space.text(number)
