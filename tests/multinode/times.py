"""python -m tests.multinode.times: the seconds from a fault of a run on two machines to its first new step, where both
are network namespaces of this one; and under mpirun."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.e2e.command import events, lines
from tests.multinode import test_mpi
from tests.multinode.hosts import Command, Hosts, until
from tests.multinode.runs import MEET, TWO, begin, reach
from tests.ranks import of_number

LONG = ("train.epochs=4000",)
ELASTIC = (*MEET, "launcher.nodes=1:2")


class Case(NamedTuple):
    """What is started where, and what happens to it."""

    name: str
    start: Callable[[Hosts, Path], list[Command]]
    befall: Callable[[Hosts], None]


def on_both(*words: str) -> Callable[[Hosts, Path], list[Command]]:
    return lambda hosts, folder: [begin(hosts, name, folder, *words, *LONG) for name in ("a", "b")]


CASES = [
    Case("a rank is killed", on_both(*TWO), lambda hosts: of_number(1).kill()),
    Case("a machine without power, launcher.nodes=1:2", on_both(*ELASTIC), lambda hosts: hosts.off("b")),
    Case("a cable is cut, launcher.nodes=1:2", on_both(*ELASTIC), lambda hosts: hosts.cut("b")),
    Case(
        "a rank is killed under mpirun",
        lambda hosts, folder: [test_mpi.begin(folder, *LONG)],
        lambda hosts: of_number(1).kill(),
    ),
]


def measured(hosts: Hosts, case: Case, folder: Path) -> float:
    """Seconds from the fault to the first step of the next attempt."""
    folder.mkdir()
    run = folder / "run"
    commands = case.start(hosts, folder)
    reach(run, 100)
    begun = time.time()
    case.befall(hosts)
    until(lambda: len(events(run, "start")) > 1, f"it goes on: {commands[0].said}")
    start = events(run, "start")[1]
    reach(run, start["step"] + 2)
    (run / "STOP").touch()
    commands[0].wait()
    return float(next(row["time"] for row in lines(run / "metrics.jsonl") if row["time"] > start["time"]) - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    print(f"seconds, median and range of {rounds}")
    with tempfile.TemporaryDirectory() as home, Hosts(Path(home), "a", "b") as hosts:
        for number, case in enumerate(CASES):
            found = []
            for turn in range(rounds):
                found.append(measured(hosts, case, Path(home) / f"{number}_{turn}"))
                hosts.restore()
            print(f"{case.name}: {statistics.median(found):.1f} ({min(found):.1f} to {max(found):.1f})", flush=True)


if __name__ == "__main__":
    main()
