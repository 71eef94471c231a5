"""Slurm: a job of one or several nodes, and in it an agent that starts the ranks through srun.

    sbatch --> batch script --> trainkit slurm job (the front) --> agent --srun--> a keeper per node --> its ranks

Outside a job this only says what would run, and hands it over (submit). See docs/slurm.md.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt
from pydantic import Field

from trainkit.errors import ConfigError, Problem, TrainkitError
from trainkit.launcher import _hosts, _machine, _sbatch, _submit, local
from trainkit.launcher._order import Order
from trainkit.launcher._watched import Watched
from trainkit.protocols import Cluster, Strategy
from trainkit.runfolder import ownership

Option = str | int | float | bool | None
OURS = {
    "nodes": "launcher.nodes",
    "ntasks": "launcher.ranks",
    "ntasks-per-node": "launcher.ranks",
    "cpus-per-task": "launcher.cpus",
    "gpus-per-node": "launcher.gpus",
    "signal": "launcher.warning_s",
    "requeue": "launcher.restart",
    "no-requeue": "launcher.restart",
    "no-kill": "a span as launcher.nodes",
    "open-mode": "nothing: logs are always appended",
    "job-name": "name",
}
"""Options that follow from other keys."""


@dataclass(frozen=True, kw_only=True)
class Restarts:
    """How often the whole job starts again, in a row without a new checkpoint, after it was preempted, came to its time
    limit, lost a node that it cannot do without, or failed in another way."""

    preempted: Annotated[int, Ge(0)]
    timeout: Annotated[int, Ge(0)]
    node: Annotated[int, Ge(0)]
    crash: Annotated[int, Ge(0)]


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """Ranks on the nodes of a Slurm job.

    nodes      a number, or a span such as '2:4': up to four, and as few as two when nodes are lost
    ranks      on each node; 'auto': what the strategy would use there
    style      node: one task per node, which forks its ranks; rank: one task per rank
    cpus       cores per rank
    gpus       GPUs per node
    warning_s  so long before its time limit the job is warned, saves and starts again
    restart    requeue: the job requeues itself; chain: another one waits for its end; no: neither
    lost_s     a node that is not heard of for so long is lost
    submit     hand the run to Slurm and exit
    sbatch     any options of sbatch
    srun       any options of srun
    setup      lines of shell before the run
    sweep      words of the members of a job array
    """

    nodes: Annotated[int, Gt(0)] | Annotated[str, Field(pattern=_hosts.SPAN)]
    ranks: Annotated[int, Gt(0)] | Literal["auto"]
    style: Literal["node", "rank"]
    cpus: Annotated[int, Gt(0)] | None
    gpus: Annotated[int, Ge(0)] | None
    warning_s: Annotated[int, Gt(0), Field(lt=65536)]
    restart: Literal["requeue", "chain", "no"]
    restarts: Restarts
    lost_s: Annotated[float, Ge(5)]
    submit: bool
    sbatch: Mapping[str, Option]
    srun: Mapping[str, Option]
    setup: Sequence[str]
    sweep: Sequence[str]

    @property
    def span(self) -> tuple[int, int]:
        """The least and the greatest number of nodes."""
        return _hosts.span(self.nodes)

    @property
    def runs_here(self) -> bool:
        """Whether the run is this job's. One that is to be submitted is not, wherever that is typed."""
        return in_job() and not self.submit

    def cluster(self, strategy: Strategy, device: str) -> Cluster:
        """The nodes of the job that it runs in, else those that it would ask for."""
        least, most = self.span
        nodes = int(os.environ["SLURM_JOB_NUM_NODES"]) if self.runs_here else most
        gpus = 0 if device == "cpu" else self._gpus()
        one = Cluster(hosts=1, ranks=0, gpus=gpus, cores=_machine.cores() if self.runs_here else self.cpus or 1)
        each = strategy.ranks(one) if self.ranks == "auto" else int(self.ranks)
        return _hosts.several(one, (min(least, nodes), nodes), each)

    def _gpus(self) -> int:
        """GPUs of one node."""
        if self.runs_here:
            return _machine.gpus()
        return self.gpus if self.gpus is not None else _sbatch.gpus(self.sbatch)

    def problems(self, cluster: Cluster) -> Sequence[Problem]:
        least, most = self.span
        found = [*_hosts.upside_down("launcher.nodes", self.nodes, "nodes")]
        if not found and self.runs_here and not least <= cluster.hosts <= most:
            said = f"this job has {cluster.hosts} node(s)"
            found.append(
                Problem("launcher.nodes", self.nodes, said, f"set launcher.nodes={cluster.hosts}, or sbatch -N")
            )
        found += _hosts.crowded(cluster, "a node", "set fewer, more launcher.gpus, or train.device=cpu")
        return [*found, *self._of_options(), *self._of_arrays()]

    def _of_options(self) -> Iterator[Problem]:
        for option, value in self.sbatch.items():
            if (ours := OURS.get(_sbatch.dashed(option))) is not None:
                yield Problem(f"launcher.sbatch.{option}", value, f"is set by {ours}", f"set {ours}")
        for option, value in self.srun.items():
            if _sbatch.dashed(option) == "export":
                said = "is ALL always: by its environment a task knows to which run it belongs"
                yield Problem(
                    f"launcher.srun.{option}", value, said, "set launcher.sbatch.export, or use launcher.setup"
                )

    def _of_arrays(self) -> Iterator[Problem]:
        array = _sbatch.array(self.sbatch)
        if self.sweep and array is not None:
            yield Problem(
                "launcher.sbatch.array", array, "launcher.sweep makes the array", "set launcher.sbatch.throttle"
            )
        for member in self.sweep:
            try:
                shlex.split(member)
            except ValueError as error:
                yield Problem("launcher.sweep", member, f"is no line of words: {error}", "quote it as in a shell")
        task = self.runs_here and "SLURM_ARRAY_JOB_ID" in os.environ
        if self.restart == "chain" and (self.sweep or array is not None or task):
            said = "every task of an array would submit the whole array again"
            yield Problem(
                "launcher.restart", "chain", said, "set launcher.restart=requeue, which starts one task again"
            )

    def members(self, root: Path) -> Mapping[int, Sequence[str]]:
        """Implements preflight.Sweeps."""
        return {} if self.runs_here else {n: shlex.split(self.sweep[n]) for n in _submit.to_do(self, root)}

    def start(self, run: Path, cluster: Cluster, attempt: int) -> Watched:
        """Start the ranks on the nodes of this job."""
        if not in_job():
            raise TrainkitError("launcher=slurm starts ranks inside a Slurm job only; launcher.submit=true makes one")
        return local.lead(run, cluster, attempt, self.order(cluster))

    def order(self, cluster: Cluster) -> Order:
        """What the agent needs to know of the nodes."""
        each = cluster.ranks // cluster.hosts
        tasks = each if self.style == "rank" else 1
        least, most = self.span
        words = ["srun", f"--nodes={cluster.hosts}", f"--ntasks={cluster.hosts * tasks}", f"--ntasks-per-node={tasks}"]
        # A task that ends is the agent's to judge, and keepers do not speak MPI.
        words += ["--kill-on-bad-exit=0", "--wait=0", "--mpi=none", "--unbuffered"]
        # As sbatch was told to (--export=NONE), srun would leave the token out by which keepers belong to this run.
        words += ["--export=ALL"]
        words += ["--no-kill"] if least < most else []
        # srun does not take it over from sbatch (since Slurm 22.05).
        given = os.environ.get("SLURM_CPUS_PER_TASK")
        own = self.cpus or (1 if self.style == "rank" and least < most else None)
        cpus = own * each // tasks if own else given
        words += [f"--cpus-per-task={cpus}"] if cpus else []
        places = 1 if self.style == "rank" else each
        start = [*words, *_sbatch.flags(self.srun)]
        keepers = cluster.hosts * tasks
        return Order(start=start, keepers=keepers, places=places, lost_s=self.lost_s, owner=ownership())

    def hand_over(self, config: Mapping[str, Any], words: Sequence[str], cluster: Cluster) -> Sequence[str] | None:
        """Submit the run, where that is wanted; what to tell. None inside a job: the run is to be run here."""
        if self.runs_here:
            return None
        if not self.submit:
            said, hint = (
                "this is no Slurm job",
                "set launcher.submit=true to make one; `trainkit slurm render` shows it",
            )
            raise ConfigError([Problem("launcher.submit", False, said, hint)])
        return _submit.submit(self, config, words, cluster)


def in_job() -> bool:
    """Whether this process belongs to a Slurm job."""
    return "SLURM_JOB_ID" in os.environ and "SLURM_JOB_NUM_NODES" in os.environ
