"""Which job may write into a run folder, and how one takes it over from its life before, or from the job before it.

The owner is written before anything else is; whoever belongs to another one finds that and ends (runfolder.guard).
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from trainkit.errors import ConfigError, Problem
from trainkit.launcher import _submit
from trainkit.launcher._sbatch import SCRIPT
from trainkit.launcher._watched import FRESH_S
from trainkit.runfolder import RunFolder, own

BEFORE = "TRAINKIT_JOB_BEFORE"
NO_CHAIN = Problem(
    "launcher.restart",
    "chain",
    "who types sbatch gives options that the next job would not have: nobody can read them later",
    "use `trainkit slurm submit`, or set launcher.restart=requeue",
)


@dataclass(frozen=True, kw_only=True)
class Job:
    """This job. `number`: as Slurm's commands take it, 17 or 17_3; `life`: how often it was started again; `before`:
    the job whose end this one was waiting for."""

    number: str
    life: int
    before: str | None

    @classmethod
    def here(cls) -> Job | None:
        number = os.environ.get("SLURM_JOB_ID")
        if number is None or "SLURM_JOB_NUM_NODES" not in os.environ:
            return None
        if array := os.environ.get("SLURM_ARRAY_JOB_ID"):  # the last task has the number of the whole array
            number = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
        life = int(os.environ.get("SLURM_RESTART_COUNT", "0"))  # not set in the first one
        return cls(number=number, life=life, before=os.environ.get(BEFORE))

    @property
    def name(self) -> str:
        return f"{self.number}.{self.life}"

    def chain(self, folder: RunFolder, nodes: str) -> str:
        """Submit the job that goes on after this one, should it not be done by its end. Raises ConfigError."""
        wait = (f"--dependency=afternotok:{self.number}", "--kill-on-invalid-dep=yes", f"--nodes={nodes}")
        return _submit.sbatch("--export=ALL", *wait, str(folder.script), **{BEFORE: self.number})


def chainable(folder: RunFolder) -> None:
    """Raises ConfigError unless the script of this job is all that there is to it."""
    if os.environ.get(SCRIPT) != str(folder.script) or not folder.script.exists():
        raise ConfigError([NO_CHAIN])


def take_over(folder: RunFolder, job: Job) -> str | None:
    """Make `job` the owner of `folder`; the owner before, None for none. Raises ConfigError if another job is at work
    there."""
    try:
        before = folder.owner.read_text()
    except FileNotFoundError:
        before = None
    if before is not None and before.rpartition(".")[0] not in (job.number, job.before) and _at_work(folder):
        number = before.rpartition(".")[0]
        hint = f"wait for it, or choose another run.dir; `trainkit jobs stop {folder.root}` makes it save and leave"
        raise ConfigError([Problem("run.dir", folder.root, f"job {number} is at work in this folder", hint)])
    own(folder, job.name)
    return before


def _at_work(folder: RunFolder) -> bool:
    if folder.summary.exists() or not folder.heartbeat.exists():
        return False
    return time.time() - folder.heartbeat.stat().st_mtime < FRESH_S
