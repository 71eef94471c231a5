"""Who keeps the ranks of a run on several machines, for the agent, which is on the first one.

    agent --srun--> a keeper per node (or per rank), which calls back over TCP (trainkit/keeper.py)
    agent --------> keepers    begin (an attempt), ask (to save and leave), dump (stacks), kill, release, keep, memory
                               (what becomes of its snapshots), load (how busy the machine is); a sign of life
    keepers ------> agent      where every rank is, who has ended and how, who stands by

Keepers stay from one attempt to the next, with torch imported. What the agent tells them of the ranks goes through
noderanks.py.

A node that is not heard of for `lost_s` is lost, and so is one whose keeper has ended. Its keeper, which may still be
alive behind a cut cable, ends its ranks before that (LEASE of that time), so that no two attempts write.

Without a scheduler keepers come by themselves (trainkit/guest.py), and may come again. Ray replaces them as a whole:
those that are left are let go, and another group calls (`renew`).
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainkit.errors import TrainkitError
from trainkit.launcher import _address
from trainkit.launcher._door import HELLO_S, Door
from trainkit.launcher._invitation import SECRET, Invitation, versions
from trainkit.launcher._order import LEASE, TOKEN, Order
from trainkit.launcher._ranks import GLANCE_S, HOST, KILL_S
from trainkit.launcher._roll import Keeper, Relay, Roll
from trainkit.launcher._seat import NUMBER
from trainkit.launcher._wire import CONNECT_S

PING_S = 1.0


class Nodes:
    """The keepers of a run; raises TrainkitError unless all of them call back."""

    def __init__(self, order: Order, asked: Callable[[], bool]) -> None:
        self.order, self.asked = order, asked
        self._token, self._over = os.environ.get(SECRET) or secrets.token_hex(16), threading.Event()
        self.roll = Relay(order) if order.renews else Roll(order)
        alone = order.keepers == 1 and not order.remote
        self._addresses = [order.address] if order.address else _address.candidates(alone) or [HOST]
        self.host = order.address or (HOST if alone else "")
        patience = HELLO_S + CONNECT_S * len(self._addresses)
        self._door = Door(self.host, order.port, order.keepers, self._token, patience)
        self._start = self._begin()
        threading.Thread(target=self._ping, name="ping", daemon=True).start()
        try:
            self._invite()
            self._gather(asked)
        except BaseException:
            self.close()
            raise

    def _begin(self) -> subprocess.Popen[bytes]:
        around = os.environ | {TOKEN: self._token}
        if around.get("GLOO_SOCKET_IFNAME") == "lo":  # the agent's own, for one machine
            del around["GLOO_SOCKET_IFNAME"]
        around.pop(SECRET, None)
        if not self.order.start:
            around[NUMBER] = "0"
        port, lease = str(self._door.port), str(self.order.lost_s * LEASE)
        words = [sys.executable, "-m", "trainkit.keeper", port, str(self.order.places), lease, *self._addresses]
        # In a session of its own: srun passes signals on, and each kind means something else to it.
        return subprocess.Popen(
            [*self.order.start, *words], env=around, stdin=subprocess.DEVNULL, start_new_session=True
        )

    def _ping(self) -> None:
        """Let the keepers know that the agent is alive, also while a disk keeps it waiting."""
        while not self._over.wait(PING_S):
            self.tell("ping")

    def _invite(self) -> None:
        """Let guests know that the door is open."""
        order = self.order
        if order.invitation is not None:
            secret = None if SECRET in os.environ else self._token
            Invitation(
                addresses=self._addresses,
                port=self._door.port,
                token=secret,
                places=order.places,
                lease_s=order.lost_s * LEASE,
                owner=order.owner,
                versions=versions(),
            ).write(Path(order.invitation))

    def renew(self, asked: Callable[[], bool]) -> list[int]:
        """Let all keepers go, and go on with those that are started in their place; the places of these. Raises
        TrainkitError where there are none, or `asked` to stop."""
        self.tell("leave", again=True)
        if self._start.poll() is not None:  # Ray's driver fell with what it was connected to
            self._start = self._begin()
        self._gather(asked)
        return self.roll.there()

    def _gather(self, asked: Callable[[], bool]) -> None:
        until = time.monotonic() + self.order.wait_s
        while not self.roll.whole:
            self.pump(GLANCE_S)
            self.roll.forget()
            ended = self._start.poll()
            lost = self.roll.broken and not self.order.renews
            if ended is not None or time.monotonic() > until or lost:
                there = ", ".join(keeper.host for keeper in self.roll.coming) or "none"
                starter = Path(self.order.start[0]).name if self.order.start else "the keeper of this machine"
                how = f"{starter} ended with {ended}" if ended is not None else "they were not ready in time"
                raise TrainkitError(
                    f"{len(self.roll.coming)} of {self.order.keepers} tasks called back ({there}): {how}\n"
                    f"    they were to reach {' or '.join(self._addresses)}; what they said is in agent.log"
                )
            if asked():
                raise TrainkitError("it was asked to stop before its tasks were up")
        self.roll.take_in()
        self.address = self.roll.address = self._meeting_place()

    def _meeting_place(self) -> str:
        """An address of this machine that every keeper has reached."""
        common = [a for a in self._addresses if all(a in keeper.reaches for keeper in self.roll)]
        if common:
            return common[0]
        told = "; ".join(f"{keeper.host} reached {', '.join(keeper.reaches)}" for keeper in self.roll)
        self.close()
        raise TrainkitError(f"no address of {socket.gethostname()} is reached by all nodes: {told}")

    def pump(self, seconds: float) -> None:
        """Take what comes within `seconds`."""
        self._door.wait(seconds, [keeper.wire for keeper in self.roll if not keeper.lost])
        for wire, (hello, *more) in self._door.admit():
            self.roll.admit(wire, hello, more)
        for keeper in self.roll:
            keeper.hear(keeper.wire.receive())
            # Until it is ready it imports torch, which takes minutes from a slow disk, and says nothing.
            if keeper.there and keeper.wire.silence() > self.order.lost_s:
                keeper.wire.close(f"nothing was heard of it for {self.order.lost_s:.0f} s")

    def tell(self, what: str, **fields: Any) -> None:
        """The same to all keepers."""
        for keeper in [*self.roll]:
            keeper.wire.send(what, **fields)

    def keeper_of(self, seat: int) -> Keeper:
        return self.roll.keepers[seat // self.order.places]

    def close(self) -> None:
        """Let the keepers go, and wait until they have."""
        self._over.set()
        self.tell("leave", again=False)
        try:
            self._start.wait(3.0 if self.roll.broken or not self.roll.keepers else KILL_S)
        except subprocess.TimeoutExpired:
            self._start.send_signal(signal.SIGTERM)  # to srun: end all tasks at once
            try:
                self._start.wait(KILL_S)
            except subprocess.TimeoutExpired:
                self._start.kill()
        for keeper in self.roll:
            keeper.wire.close()
        self._door.close()
        if self.order.invitation is not None:
            Path(self.order.invitation).unlink(missing_ok=True)
