"""What befell the rank that failed first, from its exit code and from what it left behind.

    logs/attempt_A/rank_R.failure.json   an error that the rank could still tell, with its traceback

A rank that a signal or exit() ended leaves none; what the others raised after it is its consequence.
"""

from __future__ import annotations

import json
import shutil
import signal
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trainkit.errors import EXIT_CONFIG, EXIT_FAILED

LEAST_FREE = 64 << 10  # bytes; with less, a rank may not have been able to write what befell it

Cause = Literal["killed", "raised", "hung", "corrupt", "lost", "refused"]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt ended.

    cause  killed: by a signal; raised: an error, or exit(); hung: no step in the watchdog's time;
           corrupt: its parameters are not those of the others; lost: its machine is gone, whose ranks are no longer
           to be had; refused: exit code 2, or an error that says that another attempt would come to the same
    step   the step that the rank was in; 0 before the first
    told   the fields of the `failure` event
    """

    cause: Cause
    step: int
    told: Mapping[str, Any]

    @property
    def message(self) -> str:
        return str(self.told["message"])

    @property
    def exit_code(self) -> int:
        return int(self.told["exit_code"])


def find(logs: Path, rank: int, exit_code: int, step: int, host: str | None = None) -> Failure:
    """The failure of an attempt whose `rank` ended first, with `exit_code` (negative: a signal), in `step`; on `host`,
    which is None for this machine."""
    if (logs / f"rank_{rank}.failure.json").exists():
        errors = [json.loads(path.read_text()) for path in logs.glob("rank_*.failure.json")]
        told = min(errors, key=lambda error: float(error["time"]))
        cause: Cause = told.get("cause", "refused" if told["exit_code"] == EXIT_CONFIG else "raised")
    else:
        told = event(f"rank {rank} {_ending(exit_code, logs)}", rank) | ({"host": host} if host else {})
        cause = "killed" if exit_code < 0 else "raised"
    return Failure(cause, step, {**told, "log": log(logs, told["rank"]), "cause": cause, "step": step})


def log(logs: Path, rank: int | None) -> str:
    """Where to read on: the log of `rank`, or those of all where none is to blame."""
    return str(logs if rank is None else logs / f"rank_{rank}.log")


def event(message: str, rank: int | None) -> dict[str, Any]:
    """A failure's fields where nothing but a message is known."""
    here = {"host": socket.gethostname(), "time": time.time()}
    return {"rank": rank, **here, "exit_code": EXIT_FAILED, "message": message, "traceback": ""}


def _ending(exit_code: int, logs: Path) -> str:
    if exit_code == EXIT_FAILED and shutil.disk_usage(logs).free < LEAST_FREE:
        return f"failed, and could not write why: the disk of {logs} is full"
    if exit_code >= 0:
        return f"called exit({exit_code})"
    name = signal.Signals(-exit_code).name
    return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
