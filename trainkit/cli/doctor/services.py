"""What is outside this machine: the tracker, Slurm, Ray."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from urllib.error import HTTPError
from urllib.request import urlopen

from trainkit.cli.doctor.check import Check
from trainkit.installed import installed
from trainkit.launcher import _control
from trainkit.secrets import without_login

ASK_S = 5.0


def checks() -> Iterator[Check]:
    yield tracker(os.environ.get("MLFLOW_TRACKING_URI"))
    yield slurm()
    ray = installed("ray")
    yield Check("Ray", "ok", ray or "not installed: nothing that was asked for needs it")


def tracker(uri: str | None) -> Check:
    """A run goes on without one, so it is never a fault."""
    if uri is None:
        return Check("tracker", "ok", "MLFLOW_TRACKING_URI is not set: mlflow.db in the working directory")
    shown = without_login(uri)
    if not uri.startswith(("http://", "https://")):
        return Check("tracker", "ok", shown)
    try:
        with urlopen(f"{uri.rstrip('/')}/health", timeout=ASK_S):
            return Check("tracker", "ok", f"{shown} answers")
    except HTTPError as error:
        if error.code < 500:  # it is there, and knows no such page or wants a login
            return Check("tracker", "ok", f"{shown} answers ({error.code})")
        found = f"{shown} answers {error.code}"
    except (OSError, ValueError) as error:
        found = f"{shown} cannot be reached: {error}"
    remedy = "runs train on without it; `trainkit mlflow sync RUN` sends what is missing, tracker=none leaves it out"
    return Check("tracker", "warning", found, remedy)


def slurm() -> Check:
    if shutil.which("scontrol") is None:
        return Check("Slurm", "ok", "not installed: launcher=slurm is not for this machine")
    said = _control.command("scontrol", "ping")
    if said is not None and said.ok:
        return Check("Slurm", "ok", said.out.strip().splitlines()[0])
    found = "does not answer" if said is None else (said.error.strip().splitlines() or ["does not answer"])[0]
    return Check("Slurm", "warning", found, "`scontrol ping` on this machine; launcher=local does not need it")
