"""Machines that share their disks and nothing else, for as long as a `with` lasts: each has its own network, host
name, processes and /dev/shm. Needs root."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.e2e.command import environment

START_S = 30.0
APART = ("unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


def missing() -> str:
    """Why there can be none here; empty if there can."""
    if os.getuid() != 0:
        return "machines of their own are for root only"
    tried = subprocess.run([*APART, "ip", "link", "set", "lo", "up"], capture_output=True, text=True)
    return tried.stderr


class Hosts:
    """Machines with these names, on one network, which all know each other's names."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.folder, self.names = folder, names
        lot = secrets.randbelow(2**16)
        self._bridge, net = f"th{lot:04x}", f"10.{150 + lot % 50}.{lot // 50 % 250 + 1}"
        self.addresses = {name: f"{net}.{number + 11}" for number, name in enumerate(names)}
        self._inits: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Hosts:
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in self.addresses.items())]
        (self.folder / "hosts").write_text("\n".join(lines) + "\n")
        (self.folder / "nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files\n")
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("link", "set", self._bridge, "up")
        for name in self.names:
            self.on(name)
        return self

    def __exit__(self, *exception: object) -> None:
        for name in [*self._inits]:
            self.off(name)
        subprocess.run(["ip", "link", "del", self._bridge], capture_output=True)

    def on(self, name: str) -> None:
        """Switch a machine on."""
        up = self.folder / f"up.{name}"
        up.unlink(missing_ok=True)
        words = [*APART, "bash", str(Path(__file__).with_name("host.sh")), name, f"{self.addresses[name]}/24"]
        self._inits[name] = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *words, str(self.folder)])
        cable = self._cable(name)
        card = (
            f"02:00:{self._bridge[2:4]}:{self._bridge[4:]}:00:{self.names.index(name):02x}"  # the same when it is back
        )
        end = ("name", "eth0", "address", card, "netns", str(self._init(name)))
        _ip("link", "add", cable, "type", "veth", "peer", *end)
        _ip("link", "set", cable, "master", self._bridge, "up")
        until(up.exists, f"{name} is up", START_S)

    def off(self, name: str) -> None:
        """Cut its power: silently, no connection is closed."""
        subprocess.run(["ip", "link", "del", self._cable(name)], capture_output=True)
        init = self._inits.pop(name)
        init.kill()
        init.wait()

    def cut(self, name: str) -> None:
        """Pull its network cable; what runs on it goes on."""
        _ip("link", "set", self._cable(name), "down")

    def heal(self, name: str) -> None:
        """Plug it in again."""
        _ip("link", "set", self._cable(name), "up")

    def restore(self) -> None:
        """All are on, and nothing runs on them."""
        for name in self.names:
            if name in self._inits:
                self.off(name)
            self.on(name)

    def run(self, name: str, folder: Path, *words: str, **more: str) -> Command:
        """A command on a machine, in `folder`."""
        inside = ["nsenter", f"--target={self._init(name)}", "--net", "--uts", "--mount", "--pid", f"--wd={folder}"]
        return Command([*inside, *words], folder, f"said.{name}", **more)

    def _init(self, name: str) -> int:
        """Pid 1 of a machine, as it is seen from here."""
        holder = psutil.Process(self._inits[name].pid)
        until(lambda: bool(holder.children()), f"{name} starts", START_S)
        return holder.children()[0].pid

    def _cable(self, name: str) -> str:
        return f"{self._bridge}n{self.names.index(name)}"


class Command:
    """One that runs; `said` is its output."""

    def __init__(self, words: Sequence[str], folder: Path, said: str = "said", **more: str) -> None:
        self._said = folder / said
        pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
        with self._said.open("a") as out:
            self.process = subprocess.Popen(words, cwd=folder, env=environment(**more), stdout=out, **pipes)

    @property
    def said(self) -> str:
        return self._said.read_text()

    def says(self, text: str, seconds: float = 60.0) -> None:
        """Wait until it has said that."""
        until(lambda: text in self.said, f"{text!r} is said: {self.said}", seconds)

    def send(self, number: signal.Signals) -> None:
        """nsenter forks, as it enters another pid namespace: to what it has started."""
        psutil.Process(self.process.pid).children()[0].send_signal(number)

    def wait(self, seconds: float = 120.0) -> int:
        return self.process.wait(seconds)


def until(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"it never happened: {what}"
        time.sleep(0.02)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
