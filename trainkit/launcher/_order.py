"""What the agent of a run on several machines is told of them, as JSON on its stdin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

TOKEN = "TRAINKIT_KEEPER_TOKEN"
"""The variable by which a keeper proves that it belongs to the run."""
LEASE = 0.6
"""A keeper ends its ranks when it has not heard of the agent for this part of `lost_s`: before it counts as lost."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a run on several machines needs besides its folder.

    start       what starts keepers (trainkit/keeper.py), put before their command; empty: one keeper on this machine
    keepers     how many there are in all
    guests      so many of them are not started but come by themselves (trainkit/guest.py)
    places      for ranks, of each
    lost_s      a machine that is not heard of for so long is lost
    wait_s      so long the agent waits for them
    owner       variables by which a process knows whether its job may write into the run folder (runfolder.guard)
    remote      they are elsewhere, even if there is only one
    address     under which they call; None: under any of this machine's
    port        where they call; 0: one that is free
    invitation  the file that tells guests all this
    renews      where a keeper is lost, or machines come, `start` lets all go and starts another group of keepers, which
                may be fewer than `keepers`
    """

    start: Sequence[str]
    keepers: int
    places: int
    lost_s: float
    owner: Mapping[str, str]
    guests: int = 0
    wait_s: float = 300.0
    remote: bool = False
    address: str | None = None
    port: int = 0
    invitation: str | None = None
    renews: bool = False
