"""The agent of one machine: imports torch once, forks the ranks, watches them, and starts them again if one fails.

    front --SIGTERM--> agent --SIGUSR1--> ranks: agree on a step, save, leave      -> exit 75
    a rank fails       -> the others are ended -> `failure` event
                       -> `restart` event, the next attempt from the newest checkpoint (resilience/recovery.py decides)
                       -> or `give_up` event                                       -> exit 1 or 2
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
import sys
import time
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Literal

import yaml

from trainkit import main as rank
from trainkit.checkpoint.manifest import committed
from trainkit.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, ConfigError
from trainkit.launcher._ranks import PR_SET_PDEATHSIG, Ranks
from trainkit.resilience import failure, recovery
from trainkit.resilience.lock import RunLock
from trainkit.resilience.pulse import Pulse
from trainkit.runfolder import RunFolder
from trainkit.settings import Recovery

LOOK_S = 0.1


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

    import torch.distributed  # noqa: F401  # the slow part

    order = sys.stdin.readline()
    if not order:
        return EXIT_DONE
    root, ranks, attempt = json.loads(order)
    folder = RunFolder(Path(root))
    with (folder.logs(attempt) / "agent.log").open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    try:
        RunLock(folder.ranks_lock, folder.root)  # until the last rank is gone, whatever becomes of this process
    except ConfigError as error:
        log_file = str(folder.logs(attempt) / "agent.log")
        folder.event("failure", attempt=attempt, log=log_file, **failure.event(str(error), None))
        return EXIT_FAILED
    return supervise(folder, ranks, attempt)


def supervise(folder: RunFolder, ranks: int, attempt: int) -> int:
    """Run attempts until one ends well or nothing more is to be tried. Returns the exit code."""
    config = yaml.safe_load(folder.config.read_text())
    policy, checkpoints = Recovery(**config["recovery"]), folder.checkpoints(config["checkpoint"]["dir"])
    code, state = EXIT_DONE, recovery.start(attempt, ranks, newest(checkpoints))
    while state.phase == "running":
        outcome = attend(folder, state, again=state.attempt > attempt)
        if not isinstance(outcome, failure.Failure):
            state = recovery.ended(state, outcome)
            continue
        code = outcome.exit_code
        state = recovery.decide(policy, recovery.failed(state, outcome), newest(checkpoints), rank.stop.raised)
        if state.phase == "restarting":
            state = restart(folder, state)
        elif outcome.cause != "refused":
            folder.event("give_up", attempt=state.attempt, why=state.reason)
    return {"done": EXIT_DONE, "stopped": EXIT_STOPPED}.get(state.phase, code)


def attend(folder: RunFolder, state: recovery.State, again: bool) -> Literal["done", "stopped"] | failure.Failure:
    """One attempt, from the fork to the end of its last rank; `again`: it goes on from one before. A `failure` event
    tells of the rank that failed first."""
    logs, pulse, ended = folder.logs(state.attempt), Pulse(state.ranks), dict[int, int]()
    ranks = Ranks(state.ranks, logs, partial(rank.work, str(folder.root), state.attempt, again, pulse))
    try:
        while len(ended) < state.ranks and failure.first_bad(ended) is None:
            ended = ranks.wait(LOOK_S)
    finally:
        ranks.end()
    bad = failure.first_bad(ended)
    if bad is None:
        return "stopped" if EXIT_STOPPED in ended.values() else "done"
    found = failure.find(logs, bad, ended[bad], pulse.read(bad).step)
    folder.event("failure", attempt=state.attempt, **found.told)
    return found


def restart(folder: RunFolder, state: recovery.State) -> recovery.State:
    """Announce the next attempt and wait for its time, or until the run is asked to stop."""
    following = state.attempt + 1
    folder.logs(following).mkdir()
    folder.event(
        "restart", attempt=following, ranks=state.ranks, step=max(state.saved, 0), pause=state.pause_s, why=state.reason
    )
    until = time.monotonic() + state.pause_s
    while not rank.stop.raised:
        if time.monotonic() >= until:
            return recovery.go(state)
        time.sleep(LOOK_S)
    return recovery.called_off(state)


def newest(checkpoints: Path) -> int:
    """Step of the newest checkpoint; -1 for none."""
    return max(committed(checkpoints), default=-1)


def _pass_on(number: int, frame: FrameType | None) -> None:
    """Ask every rank of this process group to save and leave."""
    os.killpg(0, signal.SIGUSR1)


if __name__ == "__main__":
    sys.exit(main())
