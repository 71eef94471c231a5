"""What the agent of a run on several machines is told of them, as JSON on its stdin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

TOKEN = "TRAINKIT_KEEPER_TOKEN"
"""The variable by which a keeper proves that it belongs to the run."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """`start`: the command that starts `keepers` keepers (trainkit/keeper.py), each with `places` places for ranks.
    They have `start_s` to call. A machine that is not heard of for `lost_s` is lost. `owner`: variables by which a
    process knows whether its job may write into the run folder (runfolder.guard).

    `renews`: where a keeper is lost, or machines come, `start` lets all go and starts another group of keepers, which
    may be fewer than `keepers`."""

    start: Sequence[str]
    keepers: int
    places: int
    lost_s: float
    owner: Mapping[str, str]
    start_s: float = 300.0
    renews: bool = False
