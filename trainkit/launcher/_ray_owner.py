"""Which command may write into a run folder, where its processes are on many machines (runfolder.guard)."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import psutil

from trainkit.errors import ConfigError, Problem
from trainkit.launcher._watched import FRESH_S
from trainkit.runfolder import RunFolder, own

LOOK_S = 0.5


def take_over(folder: RunFolder, name: str) -> None:
    """Make `name` the owner of `folder`: what an earlier command has left anywhere writes no more. Raises ConfigError
    if another command is at work."""
    until_silent(folder)
    own(folder, name)


def until_silent(folder: RunFolder) -> None:
    """Wait until no command on another machine has given a sign of life for FRESH_S. Those of this machine hold its
    lock."""
    first = _beat(folder)
    while (beat := _beat(folder)) is not None and not folder.summary.exists():
        if beat["host"] == socket.gethostname() and not _lives(beat["pid"]):
            return
        if time.time() - beat["time"] > FRESH_S:
            return
        if first is not None and beat["time"] > first["time"]:
            said = f"a command on {beat['host']} is at work in this folder"
            hint = f"wait for it, or choose another run.dir; `trainkit jobs stop {folder.root}` makes it save and leave"
            raise ConfigError([Problem("run.dir", folder.root, said, hint)])
        time.sleep(LOOK_S)


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _beat(folder: RunFolder) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(folder.heartbeat.read_text())
    except FileNotFoundError:
        return None
    return found
