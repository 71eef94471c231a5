"""This machine: one agent process that starts and watches the ranks (see trainkit/agent.py)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Gt

from trainkit.errors import Problem
from trainkit.launcher import _machine
from trainkit.protocols import Cluster, Strategy
from trainkit.runfolder import RunFolder


@dataclass(frozen=True, kw_only=True)
class Local:
    """Ranks on this machine. `ranks` is a number, or 'auto': what the strategy would use here."""

    ranks: Annotated[int, Gt(0)] | Literal["auto"]

    def cluster(self, strategy: Strategy) -> Cluster:
        cluster = Cluster(hosts=1, ranks=0, gpus=_machine.gpus(), cores=_machine.cores())
        return replace(cluster, ranks=strategy.ranks(cluster) if self.ranks == "auto" else self.ranks)

    def problems(self, cluster: Cluster) -> Sequence[Problem]:
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
        logs = RunFolder(run).logs(attempt)
        logs.mkdir(parents=True)
        with (logs / "agent.log").open("ab") as log:
            agent = subprocess.Popen(
                [sys.executable, "-m", "trainkit.agent", str(run), str(cluster.ranks), str(attempt)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches the front only, which asks the ranks to save first
            )
        return LocalJob(agent)


class LocalJob:
    """The agent and its ranks, which share one process group."""

    def __init__(self, agent: subprocess.Popen[bytes]) -> None:
        self._agent = agent

    def poll(self) -> int | None:
        return self._agent.poll()

    def stop(self) -> None:
        self._signal(signal.SIGTERM, group=False)

    def kill(self) -> None:
        self._signal(signal.SIGKILL, group=True)

    def _signal(self, number: signal.Signals, group: bool) -> None:
        if self._agent.poll() is None:
            (os.killpg if group else os.kill)(self._agent.pid, number)
