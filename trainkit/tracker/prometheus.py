"""Prometheus: the newest row of the run on a port that a Prometheus server asks."""

from __future__ import annotations

import importlib.util
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Le

from trainkit.errors import Problem
from trainkit.protocols import RunInfo, TrackerSession

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Gauge

LABELS = ("run", "recipe")


@dataclass(frozen=True, kw_only=True)
class Prometheus:
    """Every number of the newest row as a gauge trainkit_KEY, step_seconds besides, how busy each machine is as
    trainkit_system_KEY, and events counted by kind.

    port  of the machine on which the command was given; 0: one that is free
    """

    port: Annotated[int, Ge(0), Le(65535)]

    def problems(self) -> Sequence[Problem]:
        if importlib.util.find_spec("prometheus_client") is None:
            return [Problem("tracker", "prometheus", "is not installed", "pip install 'trainkit[prometheus]'")]
        return ()

    def open(self, info: RunInfo) -> TrackerSession | None:
        from prometheus_client import CollectorRegistry, start_http_server

        registry = CollectorRegistry()
        server, _ = start_http_server(self.port, registry=registry)
        return PrometheusSession(server, registry, info)

    def held(self, folder: Path) -> Sequence[int] | None:
        return None


class PrometheusSession:
    """One run on one port, until it ends: there are no numbers of a run that is over."""

    def __init__(self, server: Any, registry: CollectorRegistry, info: RunInfo) -> None:
        from prometheus_client import Counter

        self._server, self._registry = server, registry
        self._labels = {"run": str(info.folder), "recipe": info.tags.get("recipe", info.name)}
        self._gauges: dict[str, Gauge] = {}
        self._system: dict[str, Gauge] = {}
        self._hosts: set[str] = set()
        self._last: tuple[int, float] | None = None
        self._events = Counter("trainkit_events", "Events of the run, by kind", (*LABELS, "event"), registry=registry)

    def log(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            if self._last is not None and row["step"] > self._last[0]:
                self._set("step_seconds", (row["time"] - self._last[1]) / (row["step"] - self._last[0]))
            self._last = row["step"], row["time"]
        for key, value in {key: value for row in rows for key, value in row.items()}.items():
            self._set(key, float(value))

    def _set(self, key: str, value: float) -> None:
        self._gauge(self._gauges, key, LABELS).labels(**self._labels).set(value)

    def _gauge(self, gauges: dict[str, Gauge], key: str, labels: Sequence[str]) -> Gauge:
        from prometheus_client import Gauge

        if key not in gauges:
            gauges[key] = Gauge(f"trainkit_{key}", f"{key}, the newest of the run", labels, registry=self._registry)
        return gauges[key]

    def tell(self, events: Sequence[Mapping[str, Any]]) -> None:
        for event in events:
            self._events.labels(**self._labels, event=event["event"]).inc()

    def measure(self, samples: Sequence[Mapping[str, Any]]) -> None:
        """The newest; of a machine that is lost there is nothing any more."""
        newest: Mapping[str, Mapping[str, float]] = samples[-1]["machines"]
        for host in self._hosts - newest.keys():
            for gauge in self._system.values():
                gauge.remove(*self._labels.values(), host)
        self._hosts = {*newest}
        for host, load in newest.items():
            for key, value in load.items():
                self._gauge(self._system, f"system_{key}", (*LABELS, "host")).labels(**self._labels, host=host).set(
                    value
                )

    def artifact(self, name: str, text: str) -> None:
        pass

    def close(self, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
        self._server.shutdown()
        self._server.server_close()

    def abandon(self) -> None:
        self.close("FAILED")

    def where(self) -> str:
        return f"http://{socket.gethostname()}:{self._server.server_port}/metrics"
