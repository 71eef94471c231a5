"""Under which addresses other machines may reach this one, and which network card an address belongs to."""

from __future__ import annotations

import ipaddress
import os
import socket

import psutil


def candidates(alone: bool) -> list[str]:
    """The addresses of this machine, the likeliest first: what its name in the scheduler stands for, then those of its
    network cards. Never the loopback, which every machine has, unless this one is `alone`."""
    if alone:
        return ["127.0.0.1"]
    found: list[str] = []
    for name in (os.environ.get("SLURMD_NODENAME"), socket.gethostname()):
        try:
            entries = socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM) if name else []
        except socket.gaierror:  # a name that nobody knows; the cards still have addresses
            entries = []
        found += [str(entry[4][0]) for entry in entries]
    found += [address for addresses in _cards().values() for address in addresses]
    return list(dict.fromkeys(address for address in found if not ipaddress.ip_address(address).is_loopback))


def card_of(address: str) -> str | None:
    """The network card that has `address`."""
    return next((card for card, addresses in _cards().items() if address in addresses), None)


def _cards() -> dict[str, list[str]]:
    """IPv4 addresses by network card."""
    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    return {
        name: [entry.address for entry in entries if entry.family == socket.AF_INET]
        for name, entries in psutil.net_if_addrs().items()
        if name in up
    }
