"""Asking Slurm, which may be busy, down or not installed here: then the answer is None, which says nothing of a job.

Every question has a time limit, is asked for all jobs at once, and uses options that all versions since 20.11 have.
"""

from __future__ import annotations

import getpass
import math
import os
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ASK_S = 20.0
UNKNOWN = re.compile(r"Invalid job id|Job \S+ not found")
"""What scontrol says of a job that Slurm does not know, or no longer."""
OF_A_JOB = ("SLURM", "TRAINKIT_JOB_", "TRAINKIT_OWNER")
"""So begin the variables that tell a process to which job it belongs."""
FINAL = {
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "TIMEOUT",
    "NODE_FAIL",
    "PREEMPTED",
    "OUT_OF_MEMORY",
    "BOOT_FAIL",
    "DEADLINE",
}


@dataclass(frozen=True, slots=True)
class Said:
    """What a command said; `ok`: it exited with 0."""

    ok: bool
    out: str
    error: str


@dataclass(frozen=True, slots=True)
class JobState:
    """`state` is Slurm's word (PENDING, RUNNING, ...), `why` its reason or the nodes."""

    state: str
    why: str

    @property
    def over(self) -> bool:
        return self.state in FINAL


def command(*words: str, **more: str) -> Said | None:
    """Run one of Slurm's commands; None where it is not installed, or does not answer. What the job that this process
    may belong to has in its environment (its number, its tasks) is not for it: a new job would inherit that."""
    kept = {name: value for name, value in os.environ.items() if name == "SLURM_CONF" or not name.startswith(OF_A_JOB)}
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=ASK_S, env=kept | more, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode and re.search("Unable to contact|Connection refused|timed out|Zero Bytes", done.stderr):
        return None
    return Said(done.returncode == 0, done.stdout, done.stderr.strip())


def states(jobs: Sequence[str]) -> Mapping[str, JobState] | None:
    """The state of those of `jobs` that Slurm still knows; None if it cannot be asked. squeue knows what is queued and
    runs, scontrol for some minutes what is over, sacct all, where there is one."""
    if not jobs:
        return {}
    found: dict[str, JobState] = {}
    # Not by -j: it fails as soon as one of them is unknown. Another person's jobs are asked for one by one.
    queue = command("squeue", "-h", "-a", "-r", "-u", getpass.getuser(), "-o", "%i|%T|%R", "-t", "all")
    if queue is None or not queue.ok:  # munge is down, say: that is no word about a job
        return None
    for line in queue.out.splitlines():
        job, state, why = (*line.split("|", 2), "", "")[:3]
        if job in jobs:
            found[job] = JobState(state, why)
    for job in jobs:
        if job not in found:
            shown = command("scontrol", "-o", "show", "job", job)
            if shown is None or not (shown.ok or UNKNOWN.search(shown.out + shown.error)):
                return None
            found |= _shown(job, shown.out)
    if left := [job for job in jobs if job not in found]:
        found |= _accounted(left)
    return found


def _shown(job: str, text: str) -> dict[str, JobState]:
    fields = dict(re.findall(r"(\w+)=(\S+)", text))
    return {job: JobState(fields["JobState"], fields.get("Reason", ""))} if "JobState" in fields else {}


def _accounted(jobs: Sequence[str]) -> dict[str, JobState]:
    said = command("sacct", "-n", "-P", "-X", "-j", ",".join(jobs), "-o", "JobID,State")
    rows = [line.split("|") for line in said.out.splitlines()] if said and said.ok else []
    return {row[0]: JobState(row[1].split()[0], "") for row in rows if row[0] in jobs and len(row) == 2 and row[1]}


def end_time(job: str) -> float | None:
    """When the time limit ends the job, in seconds since the epoch; infinite where somebody else needs its nodes, who
    has moved that up. None if it is not known."""
    told = _told(job) or ""
    if re.search(r"\bPreemptTime=\d", told):
        return math.inf
    found = re.search(r"\bEndTime=(\d{4}-\S+)", told)
    return time.mktime(time.strptime(found[1], "%Y-%m-%dT%H:%M:%S")) if found else None


def timed_out(job: str) -> bool | None:
    """Whether it is the time limit that ends the job; None if it is not known."""
    told = _told(job)
    return None if told is None else re.search(r"\bReason=TimeLimit\b", told) is not None


def _told(job: str) -> str | None:
    """All that the controller tells of a job that it knows."""
    said = command("scontrol", "-o", "show", "job", job)
    return said.out if said and said.ok else None


def requeue(job: str) -> Said | None:
    return command("scontrol", "requeue", job)


def resume(job: str) -> Said | None:
    return command("scontrol", "resume", job)


def cancel(jobs: Sequence[str]) -> Said | None:
    return command("scancel", *jobs)
