"""What trainkit adds to each framework, beside a script written by hand for that framework alone.

    python benchmarks/strategies.py [ddp fsdp ...] [--counts] [--steps 100] [--rounds 7]

Two ranks over gloo train one small model: the same samples, the same clipping, the same loss at the end, or the script
says so and ends. First what carries no noise, per step and in the worse of the two ranks: Python calls, collectives
and their bytes, the most memory. With 4 micro-batches per step as well: gradients are what is summed, and where that
does not grow, they are sent once per global batch. Then time, in rotated rounds with the script entered twice: what
lies inside the spread of that control is no finding.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import probes  # noqa: E402
from benchmarks.common import BATCH, WIDTH, SmallTask, Source, X, Y, rotated, sample_ids, settings  # noqa: E402
from benchmarks.probes import WARM, Marks, Probe, Reading  # noqa: E402
from benchmarks.scripts import SCRIPTS, Share, judge  # noqa: E402
from tests.conformance.pool import Pool  # noqa: E402
from trainkit import main as trainkit_main  # noqa: E402
from trainkit.protocols import Batch, Data, Strategy  # noqa: E402
from trainkit.runfolder import RunFolder, read_lines  # noqa: E402

RANKS = 2
HELD_OUT = 64
LARGE = 3072  # wide: 10 million parameters, 160 MB with gradients and moments


@dataclass(frozen=True, kw_only=True)
class Case:
    """One training of `steps` steps under the strategy `name`, with `passes` micro-batches per step and rank."""

    name: str
    steps: int
    passes: int = 1
    width: int = WIDTH


def strategy_of(name: str) -> Strategy:
    """The strategy as it comes: with the values of its YAML."""
    keys = yaml.safe_load((ROOT / "conf" / "strategy" / f"{name}.yaml").read_text())
    module, _, kind = keys.pop("_target_").rpartition(".")
    made: Strategy = getattr(import_module(module), kind)(**keys)
    return made


# ------------------------------------------------------------------------------------------- on a rank


def script(case: Case, mark: Callable[[], None], folder: str) -> float:
    """Train by hand; returns the loss on the held-out samples."""
    world = strategy_of(case.name).connect("cpu")
    try:
        model = SCRIPTS[case.name](shares(case, world.rank, mark), case.width, case.passes)
        return judge(model, X[:HELD_OUT], Y[:HELD_OUT])
    finally:
        world.close()


def shares(case: Case, rank: int, mark: Callable[[], None]) -> Iterator[Share]:
    mine = BATCH // RANKS
    for ids in sample_ids(case.steps):
        mark()
        yield [(X[i], Y[i]) for i in ids[rank * mine : (rank + 1) * mine].split(mine // case.passes)]


def trainkit(case: Case, mark: Callable[[], None], folder: str) -> float:
    """Train by trainkit's whole Trainer; returns the loss on the held-out samples."""
    run = RunFolder(Path(folder))
    task = Marked(width=case.width)
    object.__setattr__(task, "mark", every(case.passes, mark))
    made = settings(
        folder, task, case.steps, strategy=strategy_of(case.name), micro_batch=BATCH // RANKS // case.passes
    )
    trainkit_main.fit(trainkit_main.with_data(made), run, 1)
    return float(list(read_lines(run.metrics))[-1]["eval_loss"])


def every(passes: int, mark: Callable[[], None]) -> Callable[[], None]:
    """`mark` by the first of `passes` calls."""
    count = 0

    def call() -> None:
        nonlocal count
        if count % passes == 0:
            mark()
        count += 1

    return call


class Marked(SmallTask):
    """The small task, whose data marks the beginning of every step. `mark` is no key of the recipe, so no field."""

    mark: Callable[[], None]

    def build_data(self) -> Data:
        return Data(_Marking(self.mark), _HeldOut())


class _Marking(Source):
    def __init__(self, mark: Callable[[], None]) -> None:
        self.mark = mark

    def fetch(self, ids: Sequence[int]) -> Batch:
        self.mark()
        return super().fetch(ids)


class _HeldOut(Source):
    def __len__(self) -> int:
        return HELD_OUT


TRAININGS = {"script": script, "trainkit": trainkit}


def read(who: str, case: Case, probe: Probe, folder: str) -> tuple[Reading, Reading, float]:
    """On one rank: per step, at the beginning of the last step, and the loss at the end."""
    quiet()
    with probe() as reading:
        marks = Marks(reading)
        loss = TRAININGS[who](case, marks, folder)
    return marks.per_step(), marks.seen[-1], loss


def quiet() -> None:
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)


# ------------------------------------------------------------------------------------------- all ranks


def measure(pool: Pool, who: str, case: Case, probe: Probe) -> tuple[Reading, Reading]:
    """Of the rank with the larger figures: per step, and at the beginning of the last step. Ends the program where the
    loss is not that of the others."""
    with tempfile.TemporaryDirectory() as folder:
        found = pool.run(RANKS, read, who, case, probe, folder)
    (loss, *_) = (loss for *_, loss in found)
    expected = LOSSES.setdefault((case.steps, case.width), loss)
    if abs(loss - expected) > 1e-4:
        sys.exit(f"{case} by {who}: not the same training: held-out loss {loss:.6f}, not {expected:.6f}")
    return max(steps for steps, *_ in found), max(last for _, last, _ in found)


LOSSES: dict[tuple[int, int], float] = {}


def counts(pool: Pool, name: str) -> None:
    for passes in (1, 4):
        case = Case(name=name, steps=WARM + 8, passes=passes)
        (bare, ours), (bare_sent, ours_sent) = (
            [measure(pool, who, case, probe)[0] for who in TRAININGS] for probe in (probes.calls, probes.traffic)
        )
        cells = [f"{name:11}{passes:6}{bare[0]:9.0f}{ours[0] - bare[0]:+6.0f}"]
        cells += [f"{b:11.0f}{o - b:+5.0f}" for b, o in zip(bare_sent, ours_sent, strict=True)]
        if passes == 1:
            large = Case(name=name, steps=WARM + 2, width=LARGE)
            # The first is for what is made once in a process, and is not looked at.
            _, bare, ours = (measure(pool, who, large, probes.memory)[1] for who in ("script", *TRAININGS))
            cells.append(f"{bare[0] / 1e6:9.1f}{ours[0] / bare[0]:7.3f}")
        print("".join(cells), flush=True)


def times(pool: Pool, name: str, steps: int, rounds: int) -> None:
    case = Case(name=name, steps=WARM + steps)
    entered = {"script": "script", "trainkit": "trainkit", "again": "script"}
    found: dict[str, list[float]] = {entry: [] for entry in entered}
    for entry in rotated(list(entered), rounds):
        found[entry].append(measure(pool, entered[entry], case, probes.seconds)[0][0])
    ours, control = (
        [a / b for a, b in zip(found[entry], found["script"], strict=True)] for entry in ("trainkit", "again")
    )
    ratio = statistics.median(ours)
    finding = "slower" if ratio > max(control) else "faster" if ratio < min(control) else "no finding"
    bare = 1e6 * statistics.median(found["script"])
    print(f"{name:11}{bare:9.0f}  {spread(ours)}  {spread(control)}  {finding}", flush=True)


def spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):6.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("strategies", nargs="*", metavar="strategy", help=f"of {', '.join(SCRIPTS)}; default: all")
    parser.add_argument("--counts", action="store_true", help="only what carries no noise")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    names = arguments.strategies or list(SCRIPTS)
    if unknown := [name for name in names if name not in SCRIPTS]:
        parser.error(f"no script for {', '.join(unknown)}; there is one for {', '.join(SCRIPTS)}")
    pool = Pool(RANKS)
    print("per step; + is trainkit over the script. Aims: calls at most +60, collectives and bytes +0, memory 1.03")
    heads = f"{'Python calls':>15}{'collectives':>16}{'bytes sent':>16}{'of them summed':>16}{'peak MB, ratio':>16}"
    print(f"{'strategy':11}{'passes':>6}{heads}")
    for name in names:
        counts(pool, name)
    if not arguments.counts:
        print(f"\nus per step of the script; median ratio [min, max] in {arguments.rounds} rotated rounds")
        print(f"{'':11}{'script':>9}  {'trainkit / script':>20}  {'script / script':>20}")
        for name in names:
            times(pool, name, arguments.steps, arguments.rounds)
    pool.close()


if __name__ == "__main__":
    main()
