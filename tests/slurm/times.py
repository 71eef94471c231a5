"""python -m tests.slurm.times: the seconds from a fault of a Slurm job to its first new step, on a cluster of three
nodes on this machine. Slurm's own part is told where a fault ends the job: until the job is launched again."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.command import events, lines
from tests.ranks import of_number
from tests.slurm.cluster import Cluster
from tests.slurm.runs import SLURM, TWO, WORDS, Submitted

LONG = ("train.epochs=4000", "launcher.lost_s=5")


@dataclass(frozen=True)
class Case:
    """What happens to a run of two nodes, and whether its job has to start again for that."""

    name: str
    words: tuple[str, ...]
    befall: Callable[[Cluster, Submitted], object]
    requeues: bool


CASES = [
    Case("a rank is killed", TWO, lambda c, r: of_number(1).kill(), False),
    Case(
        "a node without power, launcher.nodes=1:2",
        (*SLURM, "launcher.nodes=1:2", "launcher.ranks=1"),
        lambda c, r: c.off("node2"),
        False,
    ),
    Case("warned before the time limit", TWO, lambda c, r: c.run("scancel", "--batch", "--signal=USR2", r.job), True),
    Case("a node without power, launcher.nodes=2", TWO, lambda c, r: c.off("node2"), True),
    Case("the node of the batch script without power", TWO, lambda c, r: c.off("node1"), True),
    Case("slurmd of a node is killed", TWO, lambda c, r: c.kill_slurmd("node2"), True),
]


def measured(cluster: Cluster, case: Case, folder: Path) -> tuple[float, float]:
    """Seconds from the fault to the first step of the next attempt, and to its launch."""
    folder.mkdir()
    run = Submitted(cluster, folder, *WORDS, *case.words, *LONG)
    run.reach(100)
    begun = time.time()
    case.befall(cluster, run)
    cluster.until(lambda: len(events(run.run, "start")) > 1, "it goes on", 180)
    start = events(run.run, "start")[1]
    run.reach(start["step"] + 2)
    (run.run / "STOP").touch()
    run.wait()
    first = next(row for row in lines(run.run / "metrics.jsonl") if row["time"] > start["time"])
    launches = [event["time"] for event in events(run.run, "launch")]
    return first["time"] - begun, (launches[1] - begun if case.requeues else 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    print(f"seconds, median and range of {rounds}")
    with tempfile.TemporaryDirectory() as home, Cluster(folder=Path(home)) as cluster:
        for number, case in enumerate(CASES):
            found = []
            for turn in range(rounds):
                found.append(measured(cluster, case, Path(home) / f"{number}_{turn}"))
                cluster.restore()
            whole, slurm = zip(*found, strict=True)
            of = f", of which Slurm {statistics.median(slurm):.1f}" if case.requeues else ""
            print(f"{case.name}: {statistics.median(whole):.1f} ({min(whole):.1f} to {max(whole):.1f}){of}", flush=True)


if __name__ == "__main__":
    main()
