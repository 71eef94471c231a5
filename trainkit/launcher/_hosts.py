"""Machines without a scheduler, on each of which a person gives the same command: which of them leads the run, and
where they meet."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

from trainkit.errors import ConfigError, Problem
from trainkit.launcher import _address
from trainkit.launcher._order import Order
from trainkit.launcher._seat import Seat
from trainkit.launcher._visit import Visit
from trainkit.protocols import Cluster
from trainkit.runfolder import RunFolder, ownership

SPAN = r"^[1-9][0-9]*:[1-9][0-9]*$"
DOOR = r"^[^:\s]+:[1-9][0-9]*$"


def span(value: int | str) -> tuple[int, int]:
    """The least and the greatest of 4 or '2:4'."""
    least, _, most = str(value).rpartition(":")
    return int(least or most), int(most)


def upside_down(key: str, value: int | str, what: str) -> Iterator[Problem]:
    """What is wrong with a span whose least is more than its greatest."""
    if value != "auto" and (ends := span(value))[0] > ends[1]:
        found = f"{ends[0]} {what} at least are more than {ends[1]} at most"
        yield Problem(key, value, found, f"set {key}={ends[1]}:{ends[0]}")


def crowded(cluster: Cluster, place: str, hint: str) -> Iterator[Problem]:
    """What is wrong with more ranks than GPUs. `place`: what each of the hosts is called."""
    gpus, each = cluster.gpus // cluster.hosts, cluster.ranks // cluster.hosts
    if gpus and each > gpus:
        yield Problem("launcher.ranks", each, f"{place} has {gpus} GPU(s), and every rank needs its own", hint)


def several(one: Cluster, nodes: tuple[int, int], each: int) -> Cluster:
    """As many machines like `one` as `nodes` says, with `each` ranks; and as few."""
    least, most = nodes
    whole = replace(one, hosts=most, ranks=most * each, gpus=most * one.gpus, cores=most * one.cores)
    return replace(whole, fewer=tuple(n * each for n in range(least, most)))


def door(rendezvous: str) -> tuple[str, int]:
    host, _, port = rendezvous.rpartition(":")
    return host, int(port)


def unknown(rendezvous: str, head: bool | None) -> Iterator[Problem]:
    """What keeps the machines from meeting there."""
    host, port = door(rendezvous)
    found = _addresses(host)
    if port > 65535:
        yield Problem("launcher.rendezvous", rendezvous, f"there is no port {port}", "a port is at most 65535")
    if not found:
        hint = "give its address, or a name that all machines know"
        yield Problem("launcher.rendezvous", rendezvous, f"nobody here knows a host {host}", hint)
    elif head is None and host != socket.gethostname() and all(address.startswith("127.") for address in found):
        hint = "give an address that the others reach"
        yield Problem("launcher.rendezvous", rendezvous, "every machine has this address", hint)


def demand_folder(words: Sequence[str]) -> None:
    """Raises ConfigError unless all of them would use one run folder."""
    if not any(word.startswith("run.dir=") for word in words):
        hint = "set run.dir to a folder on a disk that all of them share"
        raise ConfigError([Problem("run.dir", None, "each of them would make a folder of its own", hint)])


def visit(rendezvous: str, head: bool | None, words: Sequence[str], cluster: Cluster, wait_s: float) -> Visit | None:
    """None: this machine leads the run. Raises ConfigError where it cannot, or the machines would not meet."""
    demand_folder(words)
    host, port = door(rendezvous)
    if not (_is_here(host) if head is None else head):
        return Visit(seat=Seat.guest(), places=cluster.ranks // cluster.hosts, wait_s=wait_s, door=(host, port))
    try:
        socket.create_server((_own(host) or "", port)).close()
    except OSError as error:
        said, hint = f"port {port} cannot be opened here: {error.strerror}", "choose another port"
        raise ConfigError([Problem("launcher.rendezvous", rendezvous, said, hint)]) from error
    return None


def order(rendezvous: str, folder: RunFolder, cluster: Cluster, lost_s: float, wait_s: float) -> Order:
    """For the agent of the machine that leads the run; all others come by themselves."""
    host, port = door(rendezvous)
    return Order(
        start=(),
        keepers=cluster.hosts,
        guests=cluster.hosts - 1,
        places=cluster.ranks // cluster.hosts,
        lost_s=lost_s,
        wait_s=wait_s,
        owner=ownership(),
        address=_own(host),
        port=port,
        invitation=str(folder.invitation),
    )


def _is_here(host: str) -> bool:
    return host == socket.gethostname() or _own(host) is not None


def _own(host: str) -> str | None:
    """The address of this machine that `host` stands for; None if it is none, or one that only this machine knows."""
    mine = {"127.0.0.1", *_address.candidates(alone=False)}
    found = [address for address in _addresses(host) if address in mine]
    if host == socket.gethostname() and all(address.startswith("127.") for address in found):
        return None  # how Debian writes its own name into /etc/hosts
    return next(iter(found), None)


def _addresses(host: str) -> list[str]:
    with suppress(socket.gaierror, UnicodeError):
        return [str(entry[4][0]) for entry in socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)]
    return []
