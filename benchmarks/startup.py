"""What trainkit costs once per run: time to the first step, and memory, beside what cannot be avoided.

    python benchmarks/startup.py [--rounds 5]

Time: from the start of the process to the first row of metrics.jsonl, over the time that a process takes to import what
the recipe needs anyway (torch and the recipe's own imports). Memory: the peak of a process that trains the small model
of benchmarks/overhead.py, over that of one which runs the bare loop. Both in rotated pairs; median and extremes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IMPORTS = "import torch, sklearn.datasets"
PEAK = """
import resource
from benchmarks import overhead
overhead.{}(200)
overhead.settle()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def python(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


def imports() -> float:
    begin = time.time()
    python("-c", IMPORTS)
    return time.time() - begin


def first_step() -> float:
    with tempfile.TemporaryDirectory() as folder:
        words = ("train.steps=1", "train.eval_every=null", "checkpoint.metric=null", "tracker=none")
        begin = time.time()
        python("-m", "trainkit", "recipe=image_classification", *words, f"run.dir={folder}/run")
        rows = map(json.loads, Path(folder, "run/metrics.jsonl").read_text().splitlines())
        return float(next(row["time"] for row in rows if row["step"] == 1)) - begin


def peak(loop: str) -> float:
    return float(python("-c", PEAK.format(loop)).splitlines()[-1])


def compare(name: str, ours: Callable[[], float], bare: Callable[[], float], rounds: int) -> None:
    ratios = []
    for round_ in range(rounds):
        if round_ % 2:
            first, second = ours(), bare()
            ratios.append(first / second)
        else:
            first, second = bare(), ours()
            ratios.append(second / first)
    print(f"{name:32}{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    print(f"ratios of {rounds} rotated pairs: median [min, max]")
    compare("first step / imports", first_step, imports, rounds)
    compare("imports / imports (control)", imports, imports, rounds)
    compare("peak memory / bare loop", lambda: peak("trainkit"), lambda: peak("bare"), rounds)


if __name__ == "__main__":
    main()
