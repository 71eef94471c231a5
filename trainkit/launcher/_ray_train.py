"""Ray Train as what starts a group of keepers: a worker each. What Ray runs on its nodes is here and in keeper.py.

Ray Train's own group of processes, reports and checkpoints are not used: a worker reports nothing, and ends when its
keeper does. When Ray Train lets a group go, to start one with more workers say, the keepers are asked first to have
their ranks save and leave.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.train.backend import Backend, BackendConfig

from trainkit.errors import TrainkitError
from trainkit.launcher._family import start_child
from trainkit.launcher._seat import GROUP, HOST, NUMBER, SIZE, SLOT

LEAVE_S, LOOK_S = 120.0, 0.1

keepers: list[subprocess.Popen[bytes]] = []
"""That of this worker."""


@dataclass
class Keepers(BackendConfig):  # type: ignore[misc]  # Ray is not looked into
    """What makes a keeper of a worker."""

    @property
    def backend_cls(self) -> type[Seats]:
        return Seats


class Seats(Backend):  # type: ignore[misc]  # nor here
    """Tells every worker of a new group which keeper it has, and lets the group go in peace."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        workers, group = worker_group.get_workers(), time.time_ns()
        told = []
        for number, worker in enumerate(workers):
            place = worker.distributed_context
            seat = {NUMBER: place.world_rank, SLOT: place.local_rank, HOST: worker.metadata.node_ip}
            seat |= {GROUP: group, SIZE: len(workers)}
            told.append(worker_group.execute_single_async(number, sit, {name: str(seat[name]) for name in seat}))
        ray.get(told)

    def on_shutdown(self, worker_group: Any, backend_config: BackendConfig) -> None:
        asked = worker_group.execute_async(leave)
        ray.wait(asked, num_returns=len(asked), timeout=LEAVE_S + 5)  # a worker that is dead answers, too


def sit(seat: Mapping[str, str]) -> None:
    """This worker's keeper is to know who it is."""
    os.environ.update(seat)


def leave() -> None:
    """Have the ranks of this worker save and leave. Its keeper goes when the agent has seen that."""
    until = time.monotonic() + LEAVE_S
    for keeper in keepers:
        if keeper.poll() is None:
            keeper.send_signal(signal.SIGTERM)
        while keeper.poll() is None and time.monotonic() < until:
            time.sleep(LOOK_S)


def work(told: Mapping[str, Any]) -> None:
    """What a worker does: it has a keeper. An error lets Ray Train start another group."""
    folder, around = place(told["folder"]), environment(told["gpus"]) | told["environment"]
    command = [sys.executable, *told["keeper"]]
    keeper = start_child(command, signal.SIGKILL, env=around, cwd=folder, stdin=subprocess.DEVNULL)
    keepers.append(keeper)
    try:
        code = keeper.wait()
    finally:
        keeper.kill()
    if code:
        raise TrainkitError(f"the keeper ended with {code}")


def environment(gpus: float) -> dict[str, str]:
    """This process's, for a command that is to have no GPU where none was asked for: Ray leaves those of the node
    visible."""
    return dict(os.environ) if gpus else os.environ | {"CUDA_VISIBLE_DEVICES": ""}


def place(folder: str) -> Path:
    """Where the run's recipes and conf/ are on this node: what the job has brought here, else the folder that the
    command was typed in."""
    brought = ray.get_runtime_context().runtime_env.get("working_dir")
    return Path.cwd() if brought else Path(folder)
