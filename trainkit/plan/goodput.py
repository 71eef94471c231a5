"""How much of the time a run trains that fails now and then: a discrete-event simulation over the state machine by
which runs recover (trainkit/resilience/recovery.py), and the closed form to hold it against."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from trainkit.resilience import recovery
from trainkit.resilience.failure import Failure
from trainkit.settings import Recovery

FAILURES = 20_000
"""After so many the shares no longer move: their deviation falls with the root of the number."""


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Seconds: between two failures of the whole run on average, that training stands still for a checkpoint, from a
    failure to the next step, and of training between two checkpoints."""

    mtbf: float
    save: float
    restart: float
    interval: float


@dataclass(frozen=True, kw_only=True)
class Goodput:
    """Shares of the time. `lost`: training that was made again; `gave_up`: why the run ended early, if it did."""

    goodput: float
    saving: float
    lost: float
    restarting: float
    failures: int
    gave_up: str


def closed(faults: Faults) -> float:
    """J. T. Daly, A higher order estimate of the optimum checkpoint interval for restart dumps, FGCS 22 (2006), eq. 20:
    the time that an interval takes on average where failures come at any time, also during restart and save."""
    m = faults.mtbf
    exponent = (faults.interval + faults.save) / m
    if exponent > 700:  # no interval ever ends
        return 0.0
    return faults.interval / (m * math.exp(faults.restart / m) * math.expm1(exponent))


def simulated(faults: Faults, policy: Recovery, failures: int = FAILURES, seed: int = 0) -> Goodput:
    """Failures are lost nodes at random times, without memory. One interval is a step of the state machine's."""
    chance = random.Random(seed)
    state = recovery.start(0, [1], 0)
    spent = dict.fromkeys(("good", "saving", "lost", "restarting"), 0.0)
    saved = met = 0
    until = chance.expovariate(1 / faults.mtbf)  # the next failure
    while met < failures and state.phase == "running":
        if until >= faults.interval + faults.save:
            until -= faults.interval + faults.save
            saved += 1
            spent["good"] += faults.interval
            spent["saving"] += faults.save
            continue
        spent["lost"] += min(until, faults.interval)
        spent["saving"] += max(0.0, until - faults.interval)
        met += 1
        told = {"message": "its node is gone", "exit_code": 1, "rank": 0}
        state = recovery.failed(state, Failure("lost", saved, told))
        state = recovery.decide(policy, state, saved, asked=False, now=sum(spent.values()))
        until = chance.expovariate(1 / faults.mtbf)
        while state.phase == "restarting":
            needed = faults.restart + state.pause_s
            spent["restarting"] += min(until, needed)
            if until >= needed:
                until -= needed
                state = recovery.go(state)
            else:  # another node is lost: the ranks that start are started anew
                until = chance.expovariate(1 / faults.mtbf)
                met += 1
    whole = sum(spent.values())
    return Goodput(
        goodput=spent["good"] / whole,
        saving=spent["saving"] / whole,
        lost=spent["lost"] / whole,
        restarting=spent["restarting"] / whole,
        failures=met,
        gave_up=state.reason if state.phase == "gave up" else "",
    )
