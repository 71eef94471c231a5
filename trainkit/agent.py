"""The agent of one machine: imports torch once, forks the ranks, watches them, and starts them again if one fails.

    front --SIGTERM--> agent --SIGUSR1--> ranks: agree on a step, save, leave      -> exit 75
    a rank fails       -> the others are ended -> `failure` event
                       -> `restart` event, the next attempt from the newest checkpoint (resilience/recovery.py decides)
                       -> or `give_up` event                                       -> exit 1 or 2
    no rank is heard of -> all write their stacks to their logs, then as if one had failed
    a STOP file, run.max_hours over -> as SIGTERM
    the front dies     -> the agent gets SIGTERM (parent-death signal)             -> as above
    the agent dies     -> the ranks get SIGINT (parent-death signal)               -> they save and leave

It is started before there is anything to run, so that torch's import overlaps with the front's own work, and waits
for one line on stdin: [run folder, numbers of ranks that it may run with, attempt]. End of file instead means that
nothing is to be run.

Forking costs milliseconds where a fresh interpreter would import torch again. Nothing here may touch CUDA or start
torch's thread pools, because neither survives a fork.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from trainkit import main as rank
from trainkit.checkpoint import memory
from trainkit.checkpoint.manifest import committed
from trainkit.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, ConfigError
from trainkit.launcher._ranks import Death, Ranks
from trainkit.launcher._warm import warm_up
from trainkit.protocols import Outcome
from trainkit.resilience import failure, recovery
from trainkit.resilience.lock import RunLock
from trainkit.resilience.pulse import Pulse
from trainkit.resilience.watchdog import Watch, described
from trainkit.runfolder import RunFolder, read_lines
from trainkit.settings import Recovery, Watchdog

PR_SET_PDEATHSIG = 1
LOOK_S, GLANCE_S = 0.2, 0.02
NOTICE_S = 3.0  # until a rank has seen that another is gone: a closed connection shows in milliseconds


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
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        signal.signal(number, _pass_on)

    import torch.distributed.elastic.multiprocessing  # noqa: F401  # the slow part

    order = sys.stdin.readline()
    if not order:
        return EXIT_DONE
    root, sizes, attempt = json.loads(order)
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
    return Agent(folder, yaml.safe_load(folder.config.read_text())).supervise(sizes, attempt)


class Agent:
    """Carries out what resilience/recovery.py decides. `config` is that of the run, checked and resolved."""

    def __init__(self, folder: RunFolder, config: Mapping[str, Any]) -> None:
        self.folder, self.checkpoints = folder, folder.checkpoints(config["checkpoint"]["dir"])
        self.policy, self.limits = Recovery(**config["recovery"]), Watchdog(**config["watchdog"])
        hours = config["run"]["max_hours"]
        self.hours, self.until = hours, math.inf if hours is None else time.monotonic() + 3600 * hours

    def supervise(self, sizes: Sequence[int], attempt: int) -> int:
        """Run attempts until one ends well or nothing more is to be tried. Returns the exit code."""
        code, state = EXIT_DONE, recovery.start(attempt, sizes, self.regular())
        self.warming = warm_up(self.folder.modules(attempt))
        while state.phase == "running":
            outcome = self.attend(state, again=state.attempt > attempt)
            if not isinstance(outcome, failure.Failure):
                state = self.ended(state, outcome)
                continue
            code = outcome.exit_code
            state = recovery.failed(state, outcome)
            state = recovery.decide(self.policy, state, self.regular(), rank.stop.raised, time.monotonic())
            if state.phase == "restarting":
                state = self.restart(state)
            elif outcome.cause != "refused":
                self.folder.event("give_up", attempt=state.attempt, why=state.reason)
        memory.give_back(self.folder, self.checkpoints, self.folder.event)
        return {"done": EXIT_DONE, "stopped": EXIT_STOPPED}.get(state.phase, code)

    def attend(self, state: recovery.State, again: bool) -> Outcome | failure.Failure:
        """One attempt, from the fork to the end of its last rank; `again`: it goes on from one before. A `failure`
        event tells of the rank that failed first."""
        logs, pulse = self.folder.logs(state.attempt), Pulse(state.ranks)
        ranks = Ranks(state.seats, logs, partial(rank.work, str(self.folder.root), state.attempt, again, pulse))
        try:
            outcome = self.watch(state, ranks, pulse, logs)
        finally:
            ranks.end()
        if isinstance(outcome, failure.Failure):
            self.folder.event("failure", attempt=state.attempt, **outcome.told)
        return outcome

    def watch(self, state: recovery.State, ranks: Ranks, pulse: Pulse, logs: Path) -> Outcome | failure.Failure:
        """Until all ranks have returned, or one has failed."""
        watch = Watch(self.limits, max(self.newest(), 0))
        while (outcome := ranks.wait(LOOK_S)) is None:
            if (silence := watch.look(pulse.all(), time.monotonic())) is not None:
                return hung(ranks, pulse, logs, silence)
            self.look_for_orders()
            next(self.warming, None)
            if recovery.due(state, time.monotonic()):
                ranks.ask()
        if isinstance(outcome, Death):
            self.let_rescue(ranks, pulse)
            return failure.find(logs, *outcome, pulse.read(outcome.rank).step)
        return outcome

    def let_rescue(self, ranks: Ranks, pulse: Pulse) -> None:
        """Wait for those that outlive a fault: a collective fails, and they may save the newest step (rescue.py)."""
        noticed = time.monotonic() + NOTICE_S
        while left := [beat for beat in map(pulse.read, ranks.alive()) if beat.section != "leaving"]:
            rescuing = [beat.at for beat in left if beat.section == "rescuing"]
            if time.monotonic() > (max(rescuing) + self.limits.slow if rescuing else noticed):
                return
            time.sleep(GLANCE_S)

    def ended(self, state: recovery.State, how: Outcome) -> recovery.State:
        """They have saved and left. Unless the run was to stop, that was to take a place in again."""
        if how == "stopped" and not rank.stop.raised and recovery.due(state, time.monotonic()):
            return self.restart(recovery.rejoin(state, self.regular(), time.monotonic()))
        return recovery.ended(state, how)

    def restart(self, state: recovery.State) -> recovery.State:
        """Announce the next attempt and wait for its time, or until the run is asked to stop."""
        following, step = state.attempt + 1, max(self.newest(), 0)
        self.folder.logs(following).mkdir()
        told = {"ranks": state.ranks, "step": step, "pause": state.pause_s, "why": state.reason}
        self.folder.event("restart", attempt=following, **told)
        until = time.monotonic() + state.pause_s
        while not rank.stop.raised:
            if time.monotonic() >= until:
                return recovery.go(state)
            time.sleep(LOOK_S)
            self.look_for_orders()
        return recovery.called_off(state)

    def look_for_orders(self) -> None:
        """Ask the ranks to save and leave where a STOP file is there, or max_hours are over."""
        if rank.stop.raised:
            return
        if self.folder.stop.exists():
            self.folder.stop.unlink()  # or the same command would stop again
            why = f"there was a file {self.folder.stop}"
        elif time.monotonic() > self.until:
            why = f"run.max_hours={self.hours} are over"
        else:
            return
        self.folder.event("asked", why=why)
        ask()

    def newest(self) -> int:
        """Step of the newest checkpoint; -1 for none."""
        return max([*committed(self.checkpoints), *memory.kept(self.folder)], default=-1)

    def regular(self) -> int:
        """Step of the newest that was not saved because a rank failed; -1 for none. Those tell nothing of how the run
        gets on: there is one after every failure."""
        saves = [event for event in read_lines(self.folder.events) if event["event"] == "save"]
        rescued = {event["step"] for event in saves if "rescued_by" in event}
        return max(({*committed(self.checkpoints)} - rescued) | {*memory.kept(self.folder)}, default=-1)


def hung(ranks: Ranks, pulse: Pulse, logs: Path, silence: float) -> failure.Failure:
    """The failure of an attempt that hangs, after every rank has written its Python stacks to its log."""
    beats, stopped = pulse.all(), ranks.stopped()
    who, message = described(beats, stopped, silence)
    ranks.dump_stacks()
    told = {**failure.event(f"{message}; the stacks of all ranks are in {logs}", who), "cause": "hung"}
    step = max(beat.step for beat in beats)
    return failure.Failure("hung", step, {**told, "log": failure.log(logs, who), "step": step})


def ask() -> None:
    """Ask every rank of this process group to save and leave."""
    os.killpg(0, signal.SIGUSR1)


def _pass_on(number: int, frame: FrameType | None) -> None:
    ask()


if __name__ == "__main__":
    sys.exit(main())
