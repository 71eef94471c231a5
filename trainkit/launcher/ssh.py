"""Other machines through ssh: one command starts a keeper on each (see trainkit/nodes.py). The command itself, and the
agent, are where it is typed, which need not be one of them."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, MinLen
from pydantic import Field

from trainkit.errors import Problem
from trainkit.launcher import _hosts, _machine
from trainkit.launcher._order import Order
from trainkit.launcher._watched import Watched
from trainkit.launcher.local import lead
from trainkit.protocols import Cluster, Strategy
from trainkit.runfolder import RunFolder, own_here, ownership


@dataclass(frozen=True, kw_only=True)
class Ssh:
    """Ranks on machines that ssh reaches.

    hosts   as ssh knows them; all see the run folder, the recipes and the Python environment at the same path
    nodes   as few of them as the run goes on with when some are lost; None: all are needed
    ranks   on each; 'auto': what the strategy would use on this one
    gpus    of each; None: as many as this one has
    ssh     the command, with its options
    export  variables that go along; * stands for any characters
    lost_s  a machine that is not heard of for so long is lost
    wait_s  so long they may take to start
    """

    hosts: Annotated[tuple[str, ...], MinLen(1)]
    nodes: Annotated[int, Gt(0)] | None
    ranks: Annotated[int, Gt(0)] | Literal["auto"]
    gpus: Annotated[int, Ge(0)] | None
    ssh: Annotated[str, Field(min_length=1)]
    export: tuple[str, ...]
    lost_s: Annotated[float, Ge(5)]
    wait_s: Annotated[float, Gt(0)]

    def cluster(self, strategy: Strategy, device: str) -> Cluster:
        gpus = _machine.gpus() if self.gpus is None else self.gpus
        one = Cluster(hosts=1, ranks=0, gpus=0 if device == "cpu" else gpus, cores=_machine.cores())
        each = strategy.ranks(one) if self.ranks == "auto" else self.ranks
        most = len(self.hosts)
        return _hosts.several(one, (min(self.nodes or most, most), most), each)

    def problems(self, cluster: Cluster) -> Sequence[Problem]:
        found = []
        if doubled := sorted({host for host in self.hosts if self.hosts.count(host) > 1}):
            said = f"{', '.join(doubled)} is there twice"
            found.append(Problem("launcher.hosts", self.hosts, said, "name each once; launcher.ranks is on each"))
        if self.nodes is not None and self.nodes > len(self.hosts):
            said = f"launcher.hosts names {len(self.hosts)}"
            found.append(Problem("launcher.nodes", self.nodes, said, f"set launcher.nodes={len(self.hosts)} or less"))
        if shutil.which(self.command[0]) is None:
            said = f"there is no program {self.command[0]}"
            found.append(Problem("launcher.ssh", self.ssh, said, "install an ssh client (openssh-client)"))
        return [*found, *_hosts.crowded(cluster, "a machine", "set fewer, launcher.gpus, or train.device=cpu")]

    @property
    def command(self) -> list[str]:
        return shlex.split(self.ssh)

    def start(self, run: Path, cluster: Cluster, attempt: int) -> Watched:
        own_here(RunFolder(run), attempt)
        plan: Mapping[str, Any] = {"hosts": self.hosts, "ssh": self.command, "export": self.export}
        order = Order(
            start=(sys.executable, "-m", "trainkit.launcher._ssh", json.dumps(plan)),
            keepers=cluster.hosts,
            places=cluster.ranks // cluster.hosts,
            lost_s=self.lost_s,
            wait_s=self.wait_s,
            owner=ownership(),
            remote=True,
        )
        return lead(run, cluster, attempt, order)
