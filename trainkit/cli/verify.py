"""verify A B recipe=NAME [key=value ...]: train a few steps twice, say where the two first differ.

A and B are NAME[@RANKS][:KEY=VALUE,...], such as `local`, `ddp@2` or `mesh@4:tensor=2,shard=2`. A key with a dot in it
is any key of the run, one without is a key of the strategy.

Both are ordinary runs, which keep a checkpoint of every step. Checkpoints hold whole tensors under canonical names, so
those of any two strategies can be compared, one after the other and in this process.
"""

from __future__ import annotations

import math
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainkit.checkpoint.manifest import committed, read_manifest, step_folder
from trainkit.cli.run import passing, prepare, quietly
from trainkit.cli.terminal import say, show_rows, title
from trainkit.errors import EXIT_DONE, EXIT_FAILED, ConfigError, Problem
from trainkit.protocols import Cluster
from trainkit.runfolder import RunFolder, read_lines
from trainkit.settings import Settings

if TYPE_CHECKING:
    import torch

SIDE = re.compile(r"\w+(@[^:]+)?(:.+)?")
USAGE = "verify A B recipe=NAME [key=value ...], where A and B are NAME[@RANKS][:KEY=VALUE,...]"
BEFORE = ("train.steps=3", "train.epochs=null")
"""What the person's words may change."""
AFTER = (
    *("tracker=none", "train.log_every=1", "train.eval_every=null", "train.patience=null", "data.ledger=true"),
    *("checkpoint.every=1", "checkpoint.keep=1000000", "checkpoint.metric=null", "checkpoint.dir=null"),
    "checkpoint.memory_every=null",
)
"""What they may not: the comparison needs every step."""

TOLERANCE = {
    "fp32": {"samples": 0.0, "loss": 1e-5, "grad_norm": 1e-4, "weights": 1e-4, "moments": 1e-3},
    "bf16": {"samples": 0.0, "loss": 1e-2, "grad_norm": 5e-2, "weights": 5e-2, "moments": 1e-1},
}
"""How far apart two equal runs may be. A moment is a sum of gradients, in which what cancels out leaves its rounding
behind. Tensors are compared as a whole: where a gradient is nothing but rounding, AdamW's first step still moves the
weight by up to the learning rate, so that the largest difference of any element says nothing."""
SHOWN = 5  # tensors

Planned = tuple[dict[str, Any], Settings, Cluster, list[str]]


@dataclass(frozen=True, slots=True)
class Difference:
    """`size` is |a - b| / |a| of a number, ||a - b|| / ||a|| of a tensor (Euclidean), and a count of samples. Infinite
    if one of the runs has no such thing, or it is not finite."""

    step: int
    kind: str
    name: str
    size: float


def main(words: Sequence[str]) -> int:
    where = passing("verify")
    sides, a, b = words[:2], where / "A", where / "B"
    planned = plan(sides, words[2:], (a, b))
    for side, arguments in zip(sides, planned, strict=True):
        say(f"training {side}")
        code = quietly(*arguments)
        if code != EXIT_DONE:
            say(f"{side} did not get to its end; its folder is left in {where}", error=True)
            return code
    precision = "bf16" if "bf16" in [settings.train.precision for _, settings, _, _ in planned] else "fp32"
    code = report(sides, list(differences(a, b)), TOLERANCE[precision], precision)
    shutil.rmtree(where)
    return code


def plan(sides: Sequence[str], words: Sequence[str], runs: Sequence[Path]) -> list[Planned]:
    """What front.run takes, for both. Raises ConfigError with all that is wrong with either; writes nothing."""
    wrong = [side for side in sides if not SIDE.fullmatch(side)]
    if wrong or len(sides) < 2:
        found = f"cannot use {shlex.join(wrong)}" if wrong else "two strategies are compared"
        raise ConfigError([Problem("", "", found, USAGE)])
    planned: list[Planned] = []
    problems: dict[str, tuple[Problem, list[str]]] = {}
    for letter, side, run in zip("AB", sides, runs, strict=True):
        mine = [*BEFORE, *words, *spelt_out(side), *AFTER, f"run.dir={run}"]
        try:
            planned.append((*prepare(mine), mine))
        except ConfigError as error:
            for problem in error.problems:
                problems.setdefault(str(problem), (problem, []))[1].append(f"{letter} ({side})")
    if problems:
        told = problems.values()
        raise ConfigError([replace(p, message=f"in {' and '.join(where)}: {p.message}") for p, where in told])
    return planned


def spelt_out(side: str) -> Iterator[str]:
    """The words of a run that `side` is short for. A comma within a value is not one between keys."""
    chosen, _, more = side.partition(":")
    strategy, _, ranks = chosen.partition("@")
    yield f"strategy={strategy}"
    if ranks:
        yield f"launcher.ranks={ranks}"
    for word in re.split(r",(?=[\w.]+=)", more) if more else ():
        yield word if "." in word.partition("=")[0] else f"strategy.{word}"


def differences(a: Path, b: Path) -> Iterator[Difference]:
    """Every number and tensor of the runs `a` and `b`, step by step in the order in which they come about."""
    trained, rows = (samples(a), samples(b)), (metrics(a), metrics(b))
    for step in sorted({*rows[0], *rows[1]}):
        ids = [each.get(step, Counter()) for each in trained]
        yield Difference(step, "samples", "sample ids", ((ids[0] - ids[1]) + (ids[1] - ids[0])).total())
        for name in ("loss", "grad_norm"):
            x, y = (each.get(step, {}).get(name, math.nan) for each in rows)
            yield Difference(step, name, name, relative(abs(x - y), abs(x)))
        yield from tensor_differences(step, a, b)


def samples(run: Path) -> dict[int, Counter[int]]:
    """How often each step trained each sample id, over all ranks."""
    steps: dict[int, Counter[int]] = {}
    for ledger in run.glob("ledger/*/*.jsonl"):
        for row in read_lines(ledger):
            steps.setdefault(row["step"], Counter()).update(row["ids"])
    return steps


def metrics(run: Path) -> dict[int, dict[str, Any]]:
    return {row["step"]: row for row in read_lines(RunFolder(run).metrics) if "loss" in row}


def tensor_differences(step: int, *runs: Path) -> Iterator[Difference]:
    a, b = (tensors(run / "checkpoints", step) for run in runs)
    for name in {**a, **b}:
        size = math.inf
        if name in a and name in b and a[name].shape == b[name].shape:
            x, y = a[name].double().flatten(), b[name].double().flatten()
            size = relative((x - y).norm().item(), x.norm().item())
        yield Difference(step, "moments" if name.startswith("optimizer.") else "weights", name, size)


def tensors(folder: Path, step: int) -> Mapping[str, torch.Tensor]:
    """The whole tensors of a step by their canonical names; none if it was not saved."""
    if step not in committed(folder):
        return {}
    import torch

    from trainkit.checkpoint.tensors import read

    layout = read_manifest(step_folder(folder, step))["tensors"]
    state = {name: torch.empty(shape, dtype=getattr(torch, dtype)) for name, (dtype, shape) in layout.items()}
    read(step_folder(folder, step), state, rank=0, alone=True)
    return state


def relative(difference: float, scale: float) -> float:
    return difference and (difference / scale if scale and math.isfinite(difference) else math.inf)


def report(sides: Sequence[str], found: Sequence[Difference], tolerance: Mapping[str, float], precision: str) -> int:
    """A table of the first step that differs, or of the largest differences of all steps. Returns the exit code."""
    beyond = [d for d in found if d.size > tolerance[d.kind]]
    step = beyond[0].step if beyond else max(d.step for d in found)
    ranked = sorted([d for d in found if not beyond or d.step == step], key=lambda d: d.size, reverse=True)
    shown: list[Difference] = []
    for kind in tolerance:  # the largest of each kind, and more of one that differs
        largest = [d for d in ranked if d.kind == kind][:SHOWN]
        shown += largest[:1] + [d for d in largest[1:] if d in beyond]
    title(f"\nstep {step}, the first that differs" if beyond else f"\nlargest differences of {step} steps")
    show_rows([(d.name, f"{d.size:.1e} in step {d.step} ({tolerance[d.kind]:.0e} allowed)") for d in shown], 24)
    if not beyond:
        say(f"\n{sides[0]} and {sides[1]} train the same ({precision})")
        return EXIT_DONE
    first = next(d for d in shown if d in beyond)
    say(f"\n{sides[0]} and {sides[1]} differ from step {step} on: {first.name} by {first.size:.1e} ({precision})")
    return EXIT_FAILED
