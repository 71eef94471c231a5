"""The text of a batch script. Pure: no cluster, no disk."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from trainkit.launcher.slurm import Option, Slurm

THROTTLE = "throttle"
WARNING: Final = "USR2"
SCRIPT = "TRAINKIT_SCRIPT"
"""The variable by which a job knows that `submit` has made its script, and where that is."""


@dataclass(frozen=True, kw_only=True)
class Script:
    """One batch script. `ranks`: per node; `words`: those of the run, without run.dir; `members` of a sweep to run;
    `by_hand`: a person submits it, so that nobody makes the run folder before Slurm writes into it."""

    launcher: Slurm
    name: str
    ranks: int
    words: Sequence[str]
    run_dir: str
    python: str
    members: Sequence[int] = ()
    by_hand: bool = False

    def __str__(self) -> str:
        head = ["#!/bin/bash", *(f"#SBATCH {flag}" for flag in self.options())]
        warned = ["# Slurm's warning: save, and start again. Ignored until the command below is there to take it."]
        known = [] if self.by_hand else [f"export {SCRIPT}={shlex.quote(f'{self.run_dir}/job.sbatch')}"]
        body = [*warned, f"trap '' {WARNING}", *known, *self.launcher.setup]
        return "\n".join([*head, "", *body, *self._members(), *self._command(), ""])

    def options(self) -> Iterator[str]:
        job = self.launcher
        least, most = job.span
        # With --ntasks-per-node Slurm takes as few nodes as the span allows, without it as many as are free. A task per
        # rank needs the cores of all ranks of a node, whichever way they are asked for.
        spread = least < most
        tasks = self.ranks if job.style == "rank" and not spread else 1
        cores = job.cpus or (1 if job.style == "rank" and spread else None)
        yield f"--job-name={shlex.quote(self.name)}"
        yield f"--nodes={least}-{most}" if spread else f"--nodes={most}"
        if not spread:
            yield f"--ntasks-per-node={tasks}"
        if cores is not None:
            yield f"--cpus-per-task={cores * self.ranks // tasks}"
        if job.gpus:
            yield f"--gpus-per-node={job.gpus}"
        yield f"--signal=B:{WARNING}@{job.warning_s}"
        yield "--requeue" if job.restart == "requeue" else "--no-requeue"
        if spread:
            yield "--no-kill"
        yield "--open-mode=append"
        given = {dashed(option): value for option, value in job.sbatch.items()}
        throttle = given.pop(THROTTLE, None)
        if self.members:
            chosen = ",".join(map(str, self.members))
            yield f"--array={chosen}" + (f"%{throttle}" if throttle else "")
        if "output" not in given:
            number = "%A_%a" if self.members or "array" in given else "%j"
            folder = "" if self.by_hand else self.run_dir.replace("%", "%%") + "/logs/"
            yield f"--output={shlex.quote(f'{folder}slurm-{number}.out')}"
        yield from flags({option: quoted(value) for option, value in given.items()})

    def _members(self) -> Iterator[str]:
        if self.members:
            yield "case $SLURM_ARRAY_TASK_ID in"
            for number in self.members:
                yield f"    {number}) member=({shlex.join(shlex.split(self.launcher.sweep[number]))}) ;;"
            yield "esac"

    def _command(self) -> Iterator[str]:
        lines = [f"exec {shlex.quote(self.python)} -m trainkit slurm job", *map(shlex.quote, self.words)]
        where = shlex.quote(f"run.dir={self.run_dir}")
        tasks = self.members or array(self.launcher.sbatch) is not None
        lines += [where + ('/"$SLURM_ARRAY_TASK_ID"' if tasks else "")]
        lines += ['"${member[@]}"'] if self.members else []  # last, as it may name a folder of its own
        yield " \\\n    ".join(lines)


def flags(options: Mapping[str, Option]) -> list[str]:
    """Options as sbatch and srun take them: account=x is --account=x; true: without a value; false, null: left out."""
    words = []
    for option, value in options.items():
        if value is True:
            words.append(f"--{dashed(option)}")
        elif value is not None and value is not False:
            words.append(f"--{dashed(option)}={value}")
    return words


def quoted(value: Option) -> Option:
    """As a line of #SBATCH has to have it."""
    return shlex.quote(value) if isinstance(value, str) else value


def dashed(option: str) -> str:
    """gpus_per_task and gpus-per-task are the same."""
    return option.replace("_", "-")


def array(options: Mapping[str, Option]) -> Option:
    """The array that sbatch's options ask for; None for none."""
    given = (value for option, value in options.items() if dashed(option) == "array" and value is not False)
    return next(given, None)


def gpus(options: Mapping[str, Option]) -> int:
    """GPUs per node that sbatch's options ask for: gres=gpu:a100:4, gpus_per_node=a100:4."""
    given = {dashed(option): str(value) for option, value in options.items()}
    words = [f"gpu:{given['gpus-per-node']}"] if "gpus-per-node" in given else []
    words += given.get("gres", "").split(",")
    for word in words:
        kind, *rest = word.removeprefix("gres:").split("(")[0].split(":")
        if kind == "gpu":
            return int(rest[-1]) if rest and rest[-1].isdigit() else 1  # Slurm's own default
    return 0
