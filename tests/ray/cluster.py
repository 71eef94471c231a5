"""A real Ray cluster of several nodes on this machine, for as long as a `with` lasts. A node has an address of the
loopback (127.0.0.2, ...) and processes of its own, which can be killed. Never `ray stop`: it would end every Ray here.

The head has no room for workers, as in most clusters."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import psutil

from tests.e2e.command import ROOT, Running

AROUND = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYTHONPATH": str(ROOT),
    # A head looks for dead nodes every so often, and this long.
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_initial_delay_ms": "1000",
}
STORE = 80 << 20
Begin = Callable[..., Running]
WHOLE = ("127.0.0.2", "127.0.0.3")


class Cluster:
    """`nodes`: those that can have workers, two CPUs each, by address."""

    def __init__(self) -> None:
        self.nodes: dict[str, Any] = {}

    def __enter__(self) -> Self:
        from ray.cluster_utils import Cluster as Nodes

        # A job says `python`, and means the one that the cluster has.
        os.environ |= AROUND | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        head = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": True, "dashboard_port": 0}
        self._cluster = Nodes(initialize_head=True, head_node_args=head)
        self.address: str = self._cluster.address
        self.dashboard = f"http://{self._cluster.webui_url}"
        self.restore()
        return self

    def __exit__(self, *how: object) -> None:
        self._cluster.shutdown()

    @property
    def head(self) -> Any:
        return self._cluster.head_node

    def add(self, address: str) -> None:
        more = {"num_cpus": 2, "object_store_memory": STORE, "node_ip_address": address}
        self.nodes[address] = self._cluster.add_node(**more)

    def kill(self, address: str) -> None:
        """All processes of a node at once; its workers go when they see that."""
        self._cluster.remove_node(self.nodes.pop(address), allow_graceful=False)

    def restore(self) -> None:
        for address in {*WHOLE} - {*self.nodes}:
            self.add(address)
        for address in {*self.nodes} - {*WHOLE}:
            self.kill(address)


def keepers(folder: Path) -> dict[str, psutil.Process]:
    """The keepers of the run whose command was typed in `folder`, by the address of their node."""
    found = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            mine = process.cmdline()[1:3] == ["-m", "trainkit.keeper"] and process.cwd() == str(folder)
            if mine and process.ppid() not in {keeper.pid for keeper in found.values()}:  # no rank that it has forked
                found.setdefault(process.environ()["TRAINKIT_KEEPER_HOST"], process)
    return found


def ranks(keeper: psutil.Process) -> list[psutil.Process]:
    """What it has forked, but the child in which it tries imports out, which gives way to everybody."""
    return [process for process in keeper.children() if process.nice() == keeper.nice()]


def until(condition: Callable[[], Any], what: str, seconds: float = 120.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"it never came about that {what}"
        time.sleep(0.05)
    return found
