"""This machine: one agent process that starts and watches the ranks (see trainkit/agent.py)."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt
from pydantic import Field

from trainkit.errors import Problem, TrainkitError
from trainkit.launcher import _machine
from trainkit.protocols import Cluster, Strategy
from trainkit.runfolder import RunFolder

PR_SET_CHILD_SUBREAPER = 36
SPAN = r"^[1-9][0-9]*:[1-9][0-9]*$"


@dataclass(frozen=True, kw_only=True)
class Local:
    """Ranks on this machine. `ranks` is a number; or 'auto': what the strategy would use here; or a span such as '2:4':
    four, and as few as two when ranks are lost. `spares`: processes more, which have libraries and data ready to take
    the place of one that is lost."""

    ranks: Annotated[int, Gt(0)] | Literal["auto"] | Annotated[str, Field(pattern=SPAN)]
    spares: Annotated[int, Ge(0)]

    def cluster(self, strategy: Strategy, device: str) -> Cluster:
        cluster = Cluster(hosts=1, ranks=0, gpus=0 if device == "cpu" else _machine.gpus(), cores=_machine.cores())
        if self.ranks == "auto":
            return replace(cluster, ranks=strategy.ranks(cluster))
        least, _, most = str(self.ranks).rpartition(":")
        return replace(cluster, ranks=int(most), fewer=tuple(range(int(least or most), int(most))))

    def problems(self, cluster: Cluster) -> Sequence[Problem]:
        least, _, most = str(self.ranks).rpartition(":")
        if least and int(least) > int(most):
            found = f"{least} ranks at least are more than {most} at most"
            return [Problem("launcher.ranks", self.ranks, found, f"set launcher.ranks={most}:{least}")]
        if cluster.gpus and cluster.ranks > cluster.gpus:
            return [
                Problem(
                    "launcher.ranks",
                    cluster.ranks,
                    f"this machine has {cluster.gpus} GPU(s), and every rank needs its own",
                    f"set launcher.ranks={cluster.gpus}, or train.device=cpu",
                )
            ]
        return ()

    def start(self, run: Path, cluster: Cluster, attempt: int) -> LocalJob:
        RunFolder(run).logs(attempt).mkdir(parents=True)
        agent = warm.pop() if warm else start_agent()
        if agent.stdin is None:
            raise TrainkitError("the agent has no stdin to take its order from")
        with agent.stdin as order:
            order.write(json.dumps([str(run), [*cluster.fewer, cluster.ranks], self.spares, attempt]).encode() + b"\n")
        return LocalJob(agent)


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
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)  # such ranks become children of this process

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
