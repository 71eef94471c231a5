"""The agent of one machine: imports torch once, then forks the ranks and watches them with torchelastic.

    front --SIGTERM--> agent --SIGUSR1--> ranks: agree on a step, save, leave      -> exit 75
    a rank fails       -> torchelastic ends the others -> `failure` event          -> exit 1 or 2
    the front dies     -> the agent gets SIGTERM (parent-death signal)             -> as above
    the agent dies     -> the ranks get SIGINT (parent-death signal)               -> they save and leave

It is started before there is anything to run, so that torch's import overlaps with the front's own work, and waits
for one line on stdin: [run folder, ranks, attempt]. End of file instead means that nothing is to be run.

Forking costs milliseconds where a fresh interpreter would import torch again. Nothing here may touch CUDA or start
torch's thread pools, because neither survives a fork.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
import time
import uuid
from pathlib import Path
from types import FrameType
from typing import Any

from trainkit import main as rank
from trainkit.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED
from trainkit.runfolder import RunFolder

PR_SET_PDEATHSIG = 1


def main() -> int:
    """Wait for the order, run it, and return its exit code."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        return EXIT_FAILED  # the front died before the signal was armed
    # torch counts GPUs through NVML then, which leaves CUDA untouched before the fork.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all ranks are on this machine
    rank.stop.install()  # the ranks inherit the flag, so that a signal during the imports is not lost
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _pass_on)

    import torch.distributed.launcher.api  # noqa: F401  # the slow part

    order = sys.stdin.readline()
    if not order:
        return EXIT_DONE
    root, ranks, attempt = json.loads(order)
    folder = RunFolder(Path(root))
    with (folder.logs(attempt) / "agent.log").open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    return launch(folder, ranks, attempt)


def launch(folder: RunFolder, ranks: int, attempt: int) -> int:
    """Start `ranks` ranks on the run folder and watch them to their end."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from trainkit.launcher._deaths import Deaths
    from trainkit.launcher._logs import RankLogs

    deaths = Deaths()
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        start_method="fork" if sys.platform == "linux" else "spawn",
        logs_specs=RankLogs(folder.logs(attempt)),
        signals_to_handle="SIGQUIT",  # the others are ours: they ask for a checkpoint
        shutdown_timeout=10,
    )
    try:
        outcomes = elastic_launch(config, rank.work)(str(folder.root), attempt)
    except ChildFailedError as error:
        seen = error.get_first_failure()[1]
        pid, exit_code = deaths.first or (seen.pid, seen.exitcode)
        return report(folder, attempt, rank_of(folder, attempt, pid, seen.local_rank), exit_code)
    return EXIT_STOPPED if "stopped" in outcomes.values() else EXIT_DONE


def _pass_on(number: int, frame: FrameType | None) -> None:
    """Ask every rank of this process group to save and leave."""
    os.killpg(0, signal.SIGUSR1)


def rank_of(folder: RunFolder, attempt: int, pid: int, otherwise: int) -> int:
    """The rank that ran as process `pid`."""
    notes = folder.logs(attempt).glob("rank_*.pid")
    known = {note.read_text(): int(note.stem.removeprefix("rank_")) for note in notes}
    return known.get(str(pid), otherwise)


def report(folder: RunFolder, attempt: int, failed: int, exit_code: int) -> int:
    """Write the `failure` event of the rank that failed first, and return the run's exit code.

    A rank that a signal or exit() ended leaves no file; what the others raised after it is its consequence.
    """
    logs = folder.logs(attempt)
    if (logs / f"rank_{failed}.failure.json").exists():
        told = [json.loads(f.read_text()) for f in logs.glob("rank_*.failure.json")]
        cause: dict[str, Any] = min(told, key=lambda failure: failure["time"])
    else:
        cause = {
            "rank": failed,
            "host": socket.gethostname(),
            "time": time.time(),
            "exit_code": EXIT_FAILED,
            "message": f"rank {failed} {_ending(exit_code)}",
            "traceback": "",
        }
    code: int = cause["exit_code"]
    folder.event("failure", attempt=attempt, log=str(logs / f"rank_{cause['rank']}.log"), **cause)
    return code


def _ending(exit_code: int) -> str:
    if exit_code >= 0:
        return f"called exit({exit_code})"
    name = signal.Signals(-exit_code).name
    return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


if __name__ == "__main__":
    sys.exit(main())
