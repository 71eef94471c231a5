"""Where a run stands. Its folder is asked first: the end that it wrote, its sign of life, its lock. Only what that
leaves open is asked of Slurm, for all runs at once; that Slurm does not answer says nothing of a run."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from trainkit.errors import ConfigError, Problem
from trainkit.launcher import _control, _submit
from trainkit.launcher._control import JobState
from trainkit.launcher._watched import FRESH_S
from trainkit.runfolder import RunFolder, read_lines

DEPTH = 3


@dataclass(frozen=True, kw_only=True)
class Standing:
    """`state`: queued, running, suspended, done, stopped, failed, refused, killed, lost (nobody is at work, and no end
    is told) or unclear, where Slurm would have to be asked; `note`: how that is known; `successor`: the job that waits
    for the end of `job`."""

    folder: RunFolder
    state: str
    job: str | None
    step: int
    loss: float | None = None
    note: str = ""
    successor: str | None = None

    @property
    def goes_on(self) -> bool:
        return self.state in ("queued", "running", "suspended", "unclear")


def standings(roots: Sequence[Path]) -> list[Standing]:
    """Of all these run folders."""
    found = [_from_folder(RunFolder(root)) for root in roots]
    unclear = [standing for standing in found if standing.state == "unclear"]
    said = _control.states([job for standing in unclear for job in (standing.job, standing.successor) if job])
    return [_with_slurm(standing, said) if standing.state == "unclear" else standing for standing in found]


def _from_folder(folder: RunFolder) -> Standing:
    events = [*read_lines(folder.events)]
    kinds = [event["event"] for event in events if event["event"] in ("launch", "end", "requeue")]
    known = _submit.read(folder)
    job = known.get("job")
    rows = [*read_lines(folder.metrics)]
    step = max((row["step"] for row in rows), default=0)
    loss = next((row["loss"] for row in reversed(rows) if "loss" in row), None)
    here = Standing(folder=folder, state="unclear", job=job, step=step, loss=loss)
    here = replace(here, successor=known.get("successor"))
    if kinds and kinds[-1] == "end" and folder.summary.exists() and not _newer(folder.job, folder.summary):
        return replace(here, state=json.loads(folder.summary.read_text())["status"])
    age = _age(folder.heartbeat)
    if kinds and kinds[-1] == "launch" and age is not None and age < FRESH_S:
        return replace(here, state="running", note=f"heard of {age:.0f} s ago")
    if _locked(folder.command_lock):
        return replace(here, state="running", note="a command is at work on this machine")
    if job is None or "ray" in known:  # of Ray's jobs `trainkit ray status` tells more
        written = _age(folder.events)
        fresh = written is not None and written < FRESH_S
        return replace(here, state="running" if fresh else "lost", note=f"last written to {_ago(written)}")
    return replace(here, note=f"heard of {_ago(age)}")


def _with_slurm(standing: Standing, said: Mapping[str, JobState] | None) -> Standing:
    if said is None:
        return replace(standing, note=f"Slurm cannot be asked; {standing.note}")
    state, following = said.get(str(standing.job)), said.get(str(standing.successor))
    if (state is None or state.over) and following is not None and not following.over:
        return _with_slurm(replace(standing, job=standing.successor, successor=None), said)
    if state is None:
        return replace(standing, state="lost", note=f"Slurm no longer knows job {standing.job}; {standing.note}")
    if state.state in ("PENDING", "REQUEUED", "CONFIGURING"):
        return replace(standing, state="queued", note=state.why)
    if state.state == "SUSPENDED":
        return replace(standing, state="suspended", note=f"Slurm: scontrol resume {standing.job}; {standing.note}")
    if not state.over:
        return replace(standing, state="running", note=f"Slurm: {state.state} {state.why}; {standing.note}")
    why = f"Slurm: {state.state}; {standing.note}"
    if state.state == "TIMEOUT":
        why += "; it had not saved within launcher.warning_s: set more; the same command goes on from its checkpoint"
    return replace(standing, state="lost", note=why)


def _newer(job: Path, summary: Path) -> bool:
    """Whether a job was submitted after the end that is told."""
    submitted: float = json.loads(job.read_text()).get("submitted", 0.0) if job.exists() else 0.0
    return submitted > summary.stat().st_mtime


def _locked(path: Path) -> bool:
    """Whether somebody holds this lock; asked without taking or changing it."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def _age(path: Path) -> float | None:
    return time.time() - path.stat().st_mtime if path.exists() else None


def _ago(age: float | None) -> str:
    return "never" if age is None else f"{age:.0f} s ago" if age < 600 else f"{age / 60:.0f} min ago"


def runs(folder: Path) -> Iterator[Path]:
    """The run folders at `folder` and below, the newest last; a sweep's are its members."""
    found = {path.parent for depth in range(DEPTH + 1) for path in folder.glob("*/" * depth + "events.jsonl")}
    found |= {path.parent for depth in range(DEPTH + 1) for path in folder.glob("*/" * depth + "job.json")}
    parents = {path.parent for path in found}
    yield from sorted(found - parents, key=lambda path: path.stat().st_mtime)


def one(words: Sequence[str], usage: ConfigError) -> Path:
    """The run folder that `words` are; `usage`: what is raised where they are anything else."""
    if len(words) != 1 or words[0].startswith("-"):
        raise usage
    root = Path(words[0]).absolute()
    if not any((root / file).is_file() for file in ("config.yaml", "job.json", "sweep.json")):
        found = f"{root} is no run folder: it has no config.yaml, job.json or sweep.json"
        raise ConfigError([Problem("", "", found, "`trainkit jobs ls FOLDER` shows the runs in a folder")])
    return root
