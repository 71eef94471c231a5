"""This machine: one agent process that starts and watches the ranks (see trainkit/agent.py). With others, on which the
same command is given, each has a keeper of ranks (trainkit/nodes.py, guest.py)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt
from pydantic import Field

from trainkit.errors import Problem, TrainkitError
from trainkit.launcher import _hosts, _machine
from trainkit.launcher._family import adopt
from trainkit.launcher._order import Order
from trainkit.launcher._visit import Visit
from trainkit.launcher._watched import Watched
from trainkit.protocols import Cluster, Job, Strategy
from trainkit.runfolder import RunFolder, own_here


@dataclass(frozen=True, kw_only=True)
class Local:
    """Ranks on this machine, and on others.

    ranks       on each; a number; or 'auto': what the strategy would use here; or a span such as '2:4': four, and as
                few as two when ranks are lost
    spares      processes more, which have libraries and data ready to take the place of one that is lost
    nodes       machines on which this command is given; a number, or a span as for `ranks`
    rendezvous  HOST:PORT, where they meet; this HOST leads the run
    head        whether this machine is HOST; None: so its addresses say
    lost_s      a machine that is not heard of for so long is lost
    wait_s      so long the machines wait for each other
    """

    ranks: Annotated[int, Gt(0)] | Literal["auto"] | Annotated[str, Field(pattern=_hosts.SPAN)]
    spares: Annotated[int, Ge(0)]
    nodes: Annotated[int, Gt(0)] | Annotated[str, Field(pattern=_hosts.SPAN)]
    rendezvous: Annotated[str, Field(pattern=_hosts.DOOR)] | None
    head: bool | None
    lost_s: Annotated[float, Ge(5)]
    wait_s: Annotated[float, Gt(0)]

    def cluster(self, strategy: Strategy, device: str) -> Cluster:
        one = Cluster(hosts=1, ranks=0, gpus=0 if device == "cpu" else _machine.gpus(), cores=_machine.cores())
        each = strategy.ranks(one) if self.ranks == "auto" else _hosts.span(self.ranks)[1]
        nodes = _hosts.span(self.nodes)
        if nodes[1] > 1:
            return _hosts.several(one, nodes, each)
        least = each if self.ranks == "auto" else _hosts.span(self.ranks)[0]
        return replace(one, ranks=each, fewer=tuple(range(least, each)))

    def problems(self, cluster: Cluster) -> Sequence[Problem]:
        found = [
            *_hosts.upside_down("launcher.ranks", self.ranks, "ranks"),
            *_hosts.upside_down("launcher.nodes", self.nodes, "nodes"),
        ]
        hint = f"set launcher.ranks={cluster.gpus // cluster.hosts}, or train.device=cpu"
        return [*found, *_hosts.crowded(cluster, "this machine", hint), *self._of_meeting(cluster)]

    def _of_meeting(self, cluster: Cluster) -> Iterator[Problem]:
        """What several machines need, and cannot have."""
        if cluster.hosts == 1:
            if self.rendezvous is not None:
                said = "one machine has nobody to meet"
                yield Problem("launcher.rendezvous", self.rendezvous, said, "set launcher.nodes, or leave it out")
            return
        if self.rendezvous is None:
            hint = "set launcher.rendezvous=HOST:PORT, an address of one of them, the same on all"
            yield Problem("launcher.rendezvous", None, f"{cluster.hosts} machines have to meet somewhere", hint)
        else:
            yield from _hosts.unknown(self.rendezvous, self.head)
        if ":" in str(self.ranks):
            hint = "set launcher.nodes to a span, or launcher.ranks to a number"
            yield Problem("launcher.ranks", self.ranks, "of several machines, whole ones are left out", hint)
        if self.spares:
            yield Problem("launcher.spares", self.spares, "are kept on one machine only", "set launcher.spares=0")

    def visit(self, words: Sequence[str], cluster: Cluster) -> Visit | None:
        """Implements _visit.Meets."""
        if self.rendezvous is None:
            return None
        return _hosts.visit(self.rendezvous, self.head, words, cluster, self.wait_s)

    def start(self, run: Path, cluster: Cluster, attempt: int) -> Job:
        if self.rendezvous is None:
            return LocalJob(order_agent(run, cluster, attempt, spares=self.spares))
        folder = RunFolder(run)
        own_here(folder, attempt)
        return lead(run, cluster, attempt, _hosts.order(self.rendezvous, folder, cluster, self.lost_s, self.wait_s))


def lead(run: Path, cluster: Cluster, attempt: int, order: Order) -> Watched:
    """Have the agent run the ranks of `cluster` on several machines; whoever sees the run folder knows that it does."""
    return Watched(LocalJob(order_agent(run, cluster, attempt, order)), RunFolder(run))


def order_agent(
    run: Path, cluster: Cluster, attempt: int, order: Order | None = None, spares: int = 0
) -> subprocess.Popen[bytes]:
    """The warm agent, if there is one, or another, with its order: to run the ranks of `cluster`, on several machines
    if there is an `order` for them."""
    RunFolder(run).logs(attempt).mkdir(parents=True)
    agent = warm.pop() if warm else start_agent()
    if agent.stdin is None:
        raise TrainkitError("the agent has no stdin to take its order from")
    words = [str(run), [*cluster.fewer, cluster.ranks], spares, attempt, *([asdict(order)] if order else [])]
    with agent.stdin as stdin:
        stdin.write(json.dumps(words).encode() + b"\n")
    return agent


warm: list[subprocess.Popen[bytes]] = []
"""An agent that is already importing torch, for the next `start`."""


def start_agent() -> subprocess.Popen[bytes]:
    """An agent that waits for its order. It ends by itself when its stdin is closed without one."""
    return subprocess.Popen(
        [sys.executable, "-m", "trainkit.agent"],
        stdin=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C reaches the front only, which asks the ranks to save first
    )


@contextmanager
def warm_agent() -> Iterator[None]:
    """Start an agent now, while the configuration is still being read; end it if nothing came of that."""
    warm.append(start_agent())
    try:
        yield
    finally:
        while warm:
            warm.pop().kill()


class LocalJob:
    """The agent and its ranks, which share one process group. It has ended when all of them have: ranks whose agent was
    killed are saving (see trainkit/agent.py), and whoever starts the run again must not meet them."""

    def __init__(self, agent: subprocess.Popen[bytes]) -> None:
        self._agent = agent
        adopt()  # such ranks

    def poll(self) -> int | None:
        code = self._agent.poll()
        return None if code is not None and self._adopted() else code

    def stop(self) -> None:
        if self._agent.poll() is None:
            self._agent.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        if self.poll() is None:
            os.killpg(self._agent.pid, signal.SIGKILL)

    def _adopted(self) -> bool:
        """Whether a rank outlives the agent."""
        try:
            while os.waitpid(-self._agent.pid, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            return False
        return True
