"""The Ray cluster of a run: finding it, and where there is none, starting one of this machine alone."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

from trainkit.errors import ConfigError, Problem
from trainkit.launcher import _machine

CONNECT_S = 5.0
STORE_BYTES = 100 << 20
"""Nothing of a run goes through Ray's object store."""


def connect(wanted: Mapping[str, Any], start: bool) -> bool:
    """Connect this process. Where there is no cluster, and none is named, one is started if `start`; else False.
    Raises ConfigError."""
    import ray

    address = wanted["address"]
    reachable(address)
    around = {"runtime_env": wanted["runtime_env"] or None, "log_to_driver": start, "logging_level": "warning"}
    try:
        ray.init(address or "auto", **around)
    except ConnectionError as error:
        if address is not None or os.environ.get("RAY_ADDRESS"):
            raise refused(wanted, error) from error
        if start:
            cpus = max(_machine.cores(), int(wanted["workers"][1] * wanted["resources"]["CPU"]))
            own = {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": STORE_BYTES}
            ray.init("local", **own, **around)
        return start
    except Exception as error:  # whatever Ray has against it, it says in many types
        raise refused(wanted, error) from error
    return True


def reachable(address: str | None) -> None:
    """Raises ConfigError where nobody listens: Ray itself would try for minutes."""
    if address in (None, "auto", "local"):
        return
    parts = urlsplit(address if "//" in address else f"//{address}")
    hint = "the port of `ray start --head` (6379), ray://HOST:10001, or null for the cluster that is there"
    try:
        socket.create_connection((parts.hostname or "", parts.port or 10001), CONNECT_S).close()
    except (OSError, ValueError) as error:
        said = f"no Ray cluster answers there: {error}"
        raise ConfigError([Problem("launcher.address", address, said, hint)]) from error


def refused(wanted: Mapping[str, Any], error: Exception) -> ConfigError:
    said = " ".join(str(error).split())
    address = wanted["address"]
    if "ersion mismatch" in said or "versions are different" in said or "was different from" in said:
        here = f"Ray {version('ray')} and Python {platform.python_version()}"
        hint = f"here are {here}; use the same as the cluster, or `trainkit ray submit`, which runs everything there"
        return ConfigError([Problem("launcher.address", address, f"the cluster has other versions: {said}", hint)])
    if wanted["runtime_env"] and "runtime" in said.lower():
        hint = "see Ray's documentation of runtime environments"
        return ConfigError([Problem("launcher.runtime_env", wanted["runtime_env"], f"Ray refuses it: {said}", hint)])
    hint = "start one (`ray start --head`), name it, or leave the key out to have one started here"
    return ConfigError([Problem("launcher.address", address, f"Ray does not connect: {said}", hint)])
