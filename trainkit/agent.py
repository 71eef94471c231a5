"""The agent of one machine: imports torch once, forks the ranks, watches them, and starts them again if one fails.

    front --SIGTERM--> agent --SIGUSR1--> ranks: agree on a step, save, leave      -> exit 75
    a rank fails       -> those that hold the newest step stand by, the others leave -> `failure` event
                       -> `restart` event, the next attempt (resilience/recovery.py decides) from the newest step that a
                          rank holds, or checkpoint
                       -> or `give_up` event; what is held is saved                -> exit 1 or 2
    no rank is heard of -> all write their stacks to their logs, then as if one had failed
    a STOP file, run.max_hours over -> as SIGTERM
    the front dies     -> the agent gets SIGTERM (parent-death signal)             -> as above
    the agent dies     -> the ranks get SIGINT (parent-death signal)               -> they save and leave

It is started before there is anything to run, so that torch's import overlaps with the front's own work, and waits
for one line on stdin: [run folder, numbers of ranks that it may run with, spares, attempt]. End of file instead means
that nothing is to be run. With a fifth entry, how to reach them, the ranks are on several machines (noderanks.py).

Forking costs milliseconds where a fresh interpreter would import torch again. Nothing here may touch CUDA or start
torch's thread pools, because neither survives a fork.
"""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from trainkit import rank
from trainkit.board import Board
from trainkit.checkpoint import leaving, memory
from trainkit.checkpoint.manifest import committed
from trainkit.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, ConfigError, TrainkitError
from trainkit.launcher import _machine
from trainkit.launcher._family import follow_parent
from trainkit.launcher._meter import Meter
from trainkit.launcher._order import Order as NodesOrder
from trainkit.launcher._ranks import Fault, Ranks
from trainkit.main import stop
from trainkit.noderanks import NodeRanks
from trainkit.nodes import Nodes
from trainkit.protocols import Outcome
from trainkit.resilience import failure, recovery
from trainkit.resilience.lock import RunLock
from trainkit.resilience.pulse import Pulse
from trainkit.resilience.watchdog import Watch, described
from trainkit.runfolder import RunFolder, guard, read_lines
from trainkit.settings import Recovery, Watchdog
from trainkit.system import SystemLog

LOOK_S, GLANCE_S, TIMES_USUAL = 0.2, 0.02, 3.0
NOTICE_S = 3.0  # until a rank has seen that another is gone: a closed connection shows in milliseconds


def main() -> int:
    """Wait for the order, run it, and return its exit code."""
    if not follow_parent(signal.SIGTERM):
        return EXIT_FAILED
    # torch counts GPUs through NVML then, which leaves CUDA untouched before the fork.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all ranks are on this machine
    stop.install()  # the ranks inherit the flag, so that a signal during the imports is not lost
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        signal.signal(number, _pass_on)

    import torch.distributed.elastic.multiprocessing  # noqa: F401  # the slow part

    order = sys.stdin.readline()
    if not order:
        return EXIT_DONE
    root, sizes, spares, attempt, *nodes = json.loads(order)
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
    config = yaml.safe_load(folder.config.read_text())
    if not nodes:
        return Agent(folder, config, sizes, spares, attempt).supervise()
    return supervise_nodes(folder, config, sizes, attempt, nodes[0])


def supervise_nodes(folder: RunFolder, config: Mapping[str, Any], sizes: Sequence[int], attempt: int, to: Any) -> int:
    """The same with ranks on several machines."""
    order = NodesOrder(**to)
    os.environ.update(order.owner)
    if order.guests:
        folder.event("waiting", hosts=order.guests, port=order.port)
    try:
        nodes = Nodes(order, lambda: stop.raised)
    except TrainkitError as error:
        if stop.raised:
            return EXIT_STOPPED
        told = failure.event(str(error), None) | {"log": str(folder.logs(attempt) / "agent.log"), "cause": "lost"}
        folder.event("failure", attempt=attempt, **told)
        return EXIT_FAILED
    try:
        return Agent(folder, config, sizes, 0, attempt, nodes).supervise()
    finally:
        nodes.close()


class RanksHere(Ranks):
    """The ranks of a run on one machine; `first`: the first attempt of the command."""

    def __init__(self, folder: RunFolder, first: int, pulse: Pulse, spares: int) -> None:
        super().__init__(partial(rank.work, str(folder.root), first, pulse), spares, folder.modules(first))
        self._folder, self._meter, self._load = folder, Meter(folder.root), dict[str, float]()

    def measure(self) -> None:
        """As NodeRanks.measure."""
        self._load = self._meter.read()

    def loads(self) -> dict[str, dict[str, float]]:
        """As NodeRanks.loads."""
        return {socket.gethostname(): self._load}

    def on_all(self, task: str, **about: Any) -> list[Any]:
        """As NodeRanks.on_all."""
        return leaving.here(self._folder, task, **about)


class Agent:
    """Carries out what resilience/recovery.py decides. `config` is that of the run, checked and resolved."""

    def __init__(
        self,
        folder: RunFolder,
        config: Mapping[str, Any],
        sizes: Sequence[int],
        spares: int,
        attempt: int,
        nodes: Nodes | None = None,
    ) -> None:
        self.folder, self.checkpoints = folder, folder.checkpoints(config["checkpoint"]["dir"])
        self.policy, self.limits = Recovery(**config["recovery"]), Watchdog(**config["watchdog"])
        hours = config["run"]["max_hours"]
        self.hours, self.until = hours, math.inf if hours is None else time.monotonic() + 3600 * hours
        self.device = config["train"]["device"]
        self.sizes, self.first, self.pulse = sizes, attempt, Pulse(sizes[-1])
        self.held, self.asked = 0, False  # the newest step that a rank holds; to leave, so that others may be taken in
        self.nodes, self.board = nodes, Board(folder)
        self.system = SystemLog(folder, config["system"]["every"])
        self.ranks = self.crew(spares)

    def crew(self, spares: int) -> RanksHere | NodeRanks:
        if self.nodes is not None:
            return NodeRanks(self.nodes, self.folder.root, self.first, self.pulse)
        return RanksHere(self.folder, self.first, self.pulse, spares)

    def supervise(self) -> int:
        """Run attempts until one ends well or nothing more is to be tried. Returns the exit code."""
        code, state = EXIT_FAILED, recovery.start(self.first, self.sizes, self.regular(), self.ranks.gone())
        try:
            while state.phase == "running":
                outcome = self.attend(state)
                if isinstance(outcome, failure.Failure):
                    code = outcome.exit_code
                    state = self.recover(recovery.failed(state, outcome), outcome)
                else:
                    self.ranks.keep(())
                    state = self.ended(state, outcome)
        finally:
            self.dismiss(())  # no rank outlives this, and what one holds is saved
            self.ranks.end()
        leaving.give_back(self.folder, self.checkpoints, self.folder.event, self.ranks.on_all)
        return {"done": EXIT_DONE, "stopped": EXIT_STOPPED}.get(state.phase, code)

    def attend(self, state: recovery.State) -> Outcome | failure.Failure:
        """One attempt, until all ranks have returned, or one has failed and the others have left or stand by. A
        `failure` event tells of the rank that failed first."""
        guard()
        logs = self.folder.logs(state.attempt)
        self.pulse.begin(state.ranks)
        self.ranks.begin(state.attempt, state.attempt > self.first, state.seats, logs)
        outcome = self.watch(state, logs)
        if isinstance(outcome, failure.Failure):
            self.folder.event("failure", attempt=state.attempt, **outcome.told)
        return outcome

    def watch(self, state: recovery.State, logs: Path) -> Outcome | failure.Failure:
        """How the attempt ends."""
        ranks, pulse = self.ranks, self.pulse
        watch, self.asked = Watch(self.limits, max(self.newest(), self.held), self.cpu), False
        while (outcome := ranks.wait(LOOK_S)) is None:
            if (silence := watch.look(pulse.all(), time.monotonic())) is not None:
                found = hung(ranks, pulse, logs, silence)
                self.let_settle(watch.usual)
                return found
            self.look_for_orders()
            if self.board.due():
                self.board.write(state.attempt, pulse.all(), ranks.places())
            self.system.look(ranks)
            ranks.warm_up()
            if recovery.due(recovery.back(state, ranks.gone()), time.monotonic()):
                self.asked = True
                ranks.ask()
        if isinstance(outcome, Fault):
            self.let_settle(watch.usual)
            first = ranks.fault() or outcome
            return failure.find(logs, first.rank, first.exit_code, pulse.read(first.rank).step, first.host)
        if isinstance(outcome, failure.Failure):  # a machine is lost, and those on others hold the newest step
            self.let_settle(watch.usual)
        return outcome

    def cpu(self) -> Sequence[float]:
        """Seconds of processor time that each rank has used, where they compute on processors."""
        on_gpus = self.device == "cuda" or (self.device == "auto" and _machine.gpus() > 0)
        return () if on_gpus else self.ranks.cpu()

    def let_settle(self, step_s: float) -> None:
        """Wait for those that outlive a fault: a collective fails, and they stand by or leave (rank.py). A rank comes
        to one within a step, which takes `step_s` as a rule."""
        noticed = time.monotonic() + max(NOTICE_S, TIMES_USUAL * step_s)
        while busy := [*map(self.pulse.read, {*self.ranks.alive()} - self.ranks.standing())]:
            self.ranks.announce()
            rescuing = [beat.at for beat in busy if beat.section == "rescuing"]
            if time.monotonic() > (max(rescuing) + self.limits.slow if rescuing else noticed):
                return
            time.sleep(GLANCE_S)

    def recover(self, state: recovery.State, outcome: failure.Failure) -> recovery.State:
        """Decide what follows from a failure, and prepare it."""
        gone = self.ranks.gone()
        state = recovery.without(recovery.back(state, gone), gone)
        state = recovery.decide(self.policy, state, self.regular(), stop.raised, time.monotonic())
        if state.phase == "restarting":
            # What was asked to leave, to take a place in again, would leave again.
            stay = [] if self.asked or self.ranks.broken else self.ranks.staying(state.seats, outcome.told.get("rank"))
            self.held = self.held_by(stay)
            self.dismiss(stay)
            return self.restart(self.renewed(state) if self.ranks.broken else state)
        self.dismiss(())
        if outcome.cause != "refused":
            self.folder.event("give_up", attempt=state.attempt, why=state.reason)
        return state

    def dismiss(self, stay: Collection[int]) -> None:
        """End all ranks but those that `stay`; what they hold is saved first, where no other has it."""
        held = self.held_by(stay)
        holding = {rank for rank in self.ranks.standing() if self.pulse.read(rank).step > held}
        self.ranks.keep(holding | {*stay})  # whoever saves also writes what the others were still to write
        leaving = holding - {*stay}
        self.ranks.release(leaving)
        until = time.monotonic() + self.limits.slow
        while leaving & {*self.ranks.alive()} and time.monotonic() < until:
            time.sleep(GLANCE_S)
        self.ranks.keep(stay)

    def held_by(self, stay: Collection[int]) -> int:
        """The newest step that one of them holds; 0 for none."""
        return max([self.pulse.read(rank).step for rank in stay], default=0)

    def ended(self, state: recovery.State, how: Outcome) -> recovery.State:
        """They have saved and left. Unless the run was to stop, that was to take a place in again."""
        state = recovery.back(state, self.ranks.gone())
        if how == "stopped" and not stop.raised and recovery.due(state, time.monotonic()):
            self.held = 0
            return self.restart(recovery.rejoin(state, self.regular(), time.monotonic()))
        if how == "stopped" and not stop.raised and self.ranks.renews:
            self.held = 0
            return self.restart(self.renewed(recovery.leave(state, self.regular())))
        return recovery.ended(state, how)

    def renewed(self, state: recovery.State) -> recovery.State:
        """On other machines, once they are there."""

        def asked() -> bool:
            self.look_for_orders()
            return stop.raised

        try:
            return recovery.renewed(state, self.ranks.renew(asked), time.monotonic())
        except TrainkitError as error:
            if stop.raised:
                return recovery.called_off(state)
            self.folder.event("give_up", attempt=state.attempt, why=str(error))
            return recovery.abandoned(state, str(error))

    def restart(self, state: recovery.State) -> recovery.State:
        """Announce the next attempt and wait for its time, or until the run is asked to stop."""
        if state.phase != "restarting":
            return state
        guard()
        following, step = state.attempt + 1, max(self.newest(), self.held)
        self.folder.logs(following).mkdir()
        told = {"ranks": state.ranks, "step": step, "pause": state.pause_s, "why": state.reason}
        self.folder.event("restart", attempt=following, **told)
        until = time.monotonic() + state.pause_s
        while not stop.raised:
            if time.monotonic() >= until:
                return recovery.go(state)
            self.ranks.idle(LOOK_S)
            self.look_for_orders()
        return recovery.called_off(state)

    def look_for_orders(self) -> None:
        """Ask the ranks to save and leave where a STOP file is there, or max_hours are over. Raises Fenced."""
        guard()
        if stop.raised:
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
        """Step of the newest that was not saved because a rank failed; -1 for none."""
        regular = recovery.regular(read_lines(self.folder.events), committed(self.checkpoints))
        return max(regular | {*memory.kept(self.folder)}, default=-1)


def hung(ranks: Ranks | NodeRanks, pulse: Pulse, logs: Path, silence: float) -> failure.Failure:
    """The failure of an attempt that hangs, after every rank has written its Python stacks to its log."""
    beats, stopped = pulse.all(), ranks.stopped()
    who, message = described(beats, stopped, silence)
    ranks.dump_stacks()
    if who is not None:
        ranks.kill(who)  # the others notice, and need not hang with it
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
