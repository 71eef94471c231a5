"""From kill -9 of a rank to the next step: trainkit beside torchelastic's restart of a script that trains the same.

    python benchmarks/recovery.py [--rounds 5]

Two DDP ranks on this machine, a checkpoint every 50 steps. Both runs are started once and train at the same time; in
each round one rank of each is killed, in turn, and the time is taken until a step is made again. `lost` is how many
steps are trained a second time. A run that makes no step in a minute is ended and started anew, and the round counts as
one that did not come back. torchrun is tuned: it looks every 0.1 s instead of every 0.1 to 5, and its rendezvous
waits for nobody. A round before the first lets the agent of trainkit import what its ranks need and is not counted.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from bisect import bisect
from pathlib import Path
from typing import Any, NamedTuple

import psutil

EVERY, CALM_S, PATIENCE_S = 50, 5.0, 60.0
MODEL = "nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))"
SCRIPT = f"""
import os, time
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("gloo")
rank, step = dist.get_rank(), 0
torch.set_num_threads(1)
torch.manual_seed(0)
model = {MODEL}
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
if os.path.exists("saved.pt"):
    saved = torch.load("saved.pt")
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    step = saved["step"]
wrapped = DistributedDataParallel(model)
x, y = torch.randn(4096, 64), torch.randint(0, 10, (4096,))
journal = open("steps.txt", "a", buffering=1)
while True:
    here = slice(16 * (2 * step + rank) % 4096, 16 * (2 * step + rank) % 4096 + 16)
    optimizer.zero_grad()
    nn.functional.cross_entropy(wrapped(x[here]), y[here]).backward()
    optimizer.step()
    step += 1
    time.sleep(0.005)
    if rank == 0:
        journal.write(f"{{step}} {{time.time()}} {{os.getpid()}}\\n")
        if step % {EVERY} == 0:
            torch.save({{"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}}, "writing.pt")
            os.replace("writing.pt", "saved.pt")
"""
RECIPE = f"""
import time
from dataclasses import dataclass

import torch
from torch import nn

from trainkit import Batch, Data, Task


@dataclass(frozen=True, kw_only=True)
class Bench(Task):
    def build_model(self):
        return {MODEL}

    def build_data(self):
        return Data(Noise())

    def loss(self, output, targets):
        return nn.functional.cross_entropy(output, targets["y"], reduction="sum")


class Noise:
    def __init__(self):
        draw = torch.Generator().manual_seed(0)
        self.x, self.y = torch.randn(4096, 64, generator=draw), torch.randint(0, 10, (4096,), generator=draw)

    def __len__(self):
        return 4096

    def fetch(self, ids):
        time.sleep(0.005)
        return Batch({{"input": self.x[ids]}}, {{"y": self.y[ids]}}, len(ids), len(ids))
"""


YAML = "# @package _global_\nrecipe:\n  _target_: recipes.bench.Bench\n"


class Made(NamedTuple):
    """A step that was made, when, and in which attempt."""

    step: int
    time: float
    attempt: int


class Side(ABC):
    """One of the two, which trains in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.since = folder, 0.0
        folder.mkdir()
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command(),
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @abstractmethod
    def command(self) -> list[str]: ...

    @abstractmethod
    def steps(self) -> list[Made]: ...

    @abstractmethod
    def second_rank(self) -> psutil.Process: ...

    def trains(self, attempt: int = 0) -> Made:
        """The first step after `attempt`, once it is made. Raises TimeoutError."""
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            for made in self.steps():
                if made.attempt != attempt and made.time > self.since:
                    return made
            time.sleep(0.01)
        raise TimeoutError

    def kill(self) -> tuple[float, int]:
        """Seconds until a step is made again (infinite if none is), and how many steps are trained again."""
        victim, last = self.second_rank(), self.steps()[-1]
        self.since = time.time()
        victim.kill()
        try:
            again = self.trains(last.attempt)
        except TimeoutError:
            self.end()
            self.start()
            self.trains(last.attempt)
            return math.inf, 0
        return again.time - self.since, max(0, last.step + 1 - again.step)

    def end(self) -> None:
        for child in psutil.Process(self.process.pid).children(recursive=True):
            child.kill()
        self.process.kill()
        self.process.wait()


class Torchrun(Side):
    def command(self) -> list[str]:
        (self.folder / "script.py").write_text(SCRIPT)
        tuned = ["--monitor-interval=0.1", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0"]
        tuned += ["--rdzv-conf=last_call_timeout=1", "--max-restarts=1000", "--nproc-per-node=2"]
        return [sys.executable, "-m", "torch.distributed.run", *tuned, "script.py"]

    def steps(self) -> list[Made]:
        path = self.folder / "steps.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        return [Made(int(step), float(at), int(pid)) for step, at, pid in map(str.split, lines)]

    def second_rank(self) -> psutil.Process:
        children = psutil.Process(self.process.pid).children()
        return next(child for child in children if child.environ().get("LOCAL_RANK") == "1")


class Trainkit(Side):
    def command(self) -> list[str]:
        for name, text in {"recipes/bench.py": RECIPE, "conf/recipe/bench.yaml": YAML}.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(text)
        words = ["strategy=ddp", "launcher.ranks=2", "tracker=none", "train.steps=1000000", "train.device=cpu"]
        words += [f"checkpoint.every={EVERY}", "recovery.killed=1000", "run.dir=run"]
        return [sys.executable, "-m", "trainkit", "recipe=bench", *words]

    def steps(self) -> list[Made]:
        starts = [event["time"] for event in self.lines("events.jsonl") if event["event"] == "start"]
        rows = [row for row in self.lines("metrics.jsonl") if "loss" in row]
        return [Made(row["step"], row["time"], bisect(starts, row["time"])) for row in rows]

    def lines(self, name: str) -> list[dict[str, Any]]:
        path = self.folder / "run" / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def second_rank(self) -> psutil.Process:
        (agent,) = psutil.Process(self.process.pid).children()
        return sorted((c for c in agent.children() if c.nice() == 0), key=lambda child: child.pid)[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # or both would train on for ever
    with tempfile.TemporaryDirectory() as root:
        sides = {"torchrun": Torchrun(Path(root) / "torchrun"), "trainkit": Trainkit(Path(root) / "trainkit")}
        try:
            measure(sides, rounds)
        finally:
            for side in sides.values():
                side.end()


def measure(sides: dict[str, Side], rounds: int) -> None:
    for side in sides.values():
        side.trains()
    found: dict[str, list[tuple[float, int]]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name in sorted(sides, reverse=number % 2 == 1):
            time.sleep(CALM_S)
            found[name].append(sides[name].kill())
    for name, (_, *counted) in found.items():
        seconds = [second for second, _ in counted]
        lost = statistics.median(steps for second, steps in counted if second < math.inf)
        missing = f"; {seconds.count(math.inf)} did not come back" if math.inf in seconds else ""
        spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
        print(
            f"{name:<10}{statistics.median(seconds):6.2f} s to the next step ({spread}), {lost:.0f} steps lost{missing}"
        )
    ratio = [a / b for (a, _), (b, _) in zip(found["trainkit"][1:], found["torchrun"][1:], strict=True)]
    print(f"trainkit / torchrun: {statistics.median(ratio):.2f}")


if __name__ == "__main__":
    main()
