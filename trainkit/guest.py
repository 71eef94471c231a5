"""What the command is on a host that does not lead the run: a keeper of ranks for the one that does.

    wait for the one that leads -> compare -> keep ranks -> the run is over                      -> its end
                 ^                                       -> the leader is gone, or the cable was cut
                 |___________________________________________________|

The leader's invitation in the run folder says where it waits, so it may be started later, or again. Ctrl-C or SIGTERM
here is as good as there: the ranks here ask all others to save and leave with them.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from trainkit.console import screen
from trainkit.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, ConfigError, Problem, TrainkitError
from trainkit.front import STATUS, finished
from trainkit.keeper import Keeper, introduce, reach
from trainkit.launcher._door import TOKEN_WRONG
from trainkit.launcher._invitation import SECRET, Invitation, versions
from trainkit.launcher._visit import Visit
from trainkit.main import stop
from trainkit.runfolder import RunFolder
from trainkit.secrets import flat

LOOK_S = 0.5
SHARED_S = 60.0  # so long a network disk may hide a file that another host has written
LAST_S = 60.0  # so long a run that is over may take to say how it ended
OWN_KEYS = ("launcher.head",)
"""What may differ from host to host."""


def run(config: Mapping[str, Any], folder: RunFolder, visit: Visit) -> int:
    """Keep ranks for the run until it is over. Returns its exit code. Raises ConfigError where this host is not to
    join."""
    secret = os.environ.pop(SECRET, None)  # nothing for the ranks
    stop.install()  # they inherit the flag
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a closed terminal does not end a run
    return Guest(config, folder, visit, secret).serve()


class Guest:
    """One host of the run."""

    def __init__(self, config: Mapping[str, Any], folder: RunFolder, visit: Visit, secret: str | None) -> None:
        self.config, self.folder, self.visit, self.secret = config, folder, visit, secret
        self.rich, self.told = screen(), ""
        self.joined, self.dismissed = False, False
        self.why = f"there is no {folder.invitation}"
        self.strange: tuple[float, Problem] | None = None
        """Since when somebody is at the door who has not written this invitation."""

    def serve(self) -> int:
        if finished(self.folder, self.config):
            self.say(f"this run is done ({self.folder.root})")
            return EXIT_DONE
        began = time.monotonic()
        while (waited := time.monotonic() - began) < self.visit.wait_s:
            if self.joined and (code := self.end()) is not None:
                return code
            if stop.raised and (not self.joined or waited > LAST_S):
                return EXIT_STOPPED
            ends = stop.raised or (self.dismissed and waited < LAST_S)
            if not ends and self.keep_ranks():
                began, self.strange = time.monotonic(), None
            else:
                time.sleep(LOOK_S)
        if self.strange is not None:
            raise ConfigError([self.strange[1]])
        raise TrainkitError(f"it was waited {self.visit.wait_s:.0f} s for the host that leads the run: {self.why}")

    def keep_ranks(self) -> bool:
        """Join the run and stay with it, as long as that goes. False where it did not come to that."""
        invitation = self.read()
        if invitation is None:
            self.look_at_the_door()
            return False
        call = reach(invitation.addresses, invitation.port)
        if call is None:
            self.say(f"waiting for the host that leads the run in {self.folder.root}")
            self.why = f"nobody answers at {' or '.join(invitation.addresses)}, port {invitation.port}"
            return False
        wire, reaches = call
        if problems := [*self.problems(invitation)]:
            wire.close()
            raise ConfigError(problems)
        token = self.secret or invitation.token or ""
        if refused := introduce(wire, token, self.visit.seat, self.visit.places, reaches):
            wire.close()
            self.turned_away(refused)
            return False
        self.joined = True
        os.environ.update(invitation.owner)
        where = f"{invitation.addresses[0]}:{invitation.port}"
        self.say(f"{self.visit.seat.host} keeps ranks for the run in {self.folder.root}, which is led at {where}")
        self.say(f"    python -m trainkit jobs logs -f {self.folder.root} shows what it says")
        self.dismissed = Keeper(wire, invitation.lease_s).serve() == EXIT_DONE
        if not self.dismissed and not stop.raised:
            self.say("the host that leads the run is gone; waiting for it")
        return True

    def read(self) -> Invitation | None:
        path = self.folder.invitation
        try:
            return Invitation.read(path)
        except PermissionError:
            hint = f"start all hosts as one user, or set {SECRET} to the same secret on all of them"
            raise ConfigError([Problem("run.dir", self.folder.root, f"{path} may not be read here", hint)]) from None

    def look_at_the_door(self) -> None:
        """There is no invitation. If there is somebody at the door, it was written to another folder."""
        self.say(f"waiting for the host that leads the run in {self.folder.root}")
        door = self.visit.door
        if door is not None and (call := reach([door[0]], door[1])) is not None:
            call[0].close()
            self.not_shared("has not written its invitation to this folder")

    def turned_away(self, why: str) -> None:
        """The one that leads does not take this host: for now, or for good."""
        self.why = f"it does not take {self.visit.seat.host}: {why}"
        if why != TOKEN_WRONG:
            self.say(f"{self.why}; waiting")
        elif self.secret is not None:
            hint = "set it to the same on all hosts, or on none"
            raise ConfigError([Problem("", "", f"{SECRET} is another one on the host that leads the run", hint)])
        else:
            self.not_shared(f"has another secret than {self.folder.invitation}")

    def not_shared(self, found: str) -> None:
        """So it seems, if that lasts."""
        if self.strange is None:
            hint = "set run.dir to a folder on a disk that all hosts share, by the same path"
            problem = Problem("run.dir", self.folder.root, f"the host that leads the run {found}", hint)
            self.strange = time.monotonic(), problem
        elif time.monotonic() - self.strange[0] > SHARED_S:
            raise ConfigError([self.strange[1]])

    def problems(self, invitation: Invitation) -> Iterator[Problem]:
        """What differs from the one that leads."""
        for name, version in versions().items():
            if version != (there := invitation.versions.get(name)):
                hint = "start all hosts from the same environment"
                yield Problem("", "", f"{name} is {version} here and {there} on the host that leads the run", hint)
        if invitation.token is None and self.secret is None:
            hint = f"set {SECRET} to the same secret here"
            yield Problem("", "", f"the host that leads the run has {SECRET} set, and this one has not", hint)
        if invitation.places != self.visit.places:
            found = f"this host has place for {self.visit.places} rank(s), the one that leads the run for"
            yield Problem(
                "launcher.ranks", self.visit.places, f"{found} {invitation.places}", "set it to what all of them have"
            )
        ours = dict(flat(yaml.safe_load(yaml.safe_dump(dict(self.config)))))
        lead = dict(flat(yaml.safe_load(self.folder.config.read_text())))
        for key in sorted({*ours, *lead} - {*OWN_KEYS}):
            if ours.get(key) != lead.get(key):
                found = f"is {lead.get(key)} on the host that leads the run"
                yield Problem(key, ours.get(key), found, "give the same command on all hosts")

    def end(self) -> int | None:
        """How the run ended, as an exit code; None if that is not told yet."""
        try:
            status = json.loads(self.folder.summary.read_text())["status"]
        except FileNotFoundError:
            return None
        self.say(f"the run in {self.folder.root}: {status}")
        code = next((code for code, name in STATUS.items() if name == status), EXIT_FAILED)
        return EXIT_DONE if self.visit.silent else code

    def say(self, text: str) -> None:
        """Once, if it is said again and again."""
        if text != self.told and not self.visit.silent:
            self.told = text
            self.rich.print(text, markup=False, highlight=False, soft_wrap=True)
