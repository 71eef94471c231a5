"""profile recipe=NAME [key=value ...]: a few steps under torch's profiler, with any strategy and launcher.

It is a run with a folder of its own, which trains some steps to get going, then those that are recorded, and stops.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from trainkit.cli.run import passing, prepare, quietly
from trainkit.cli.terminal import say, show_table, title
from trainkit.cli.words import parse, whole
from trainkit.errors import EXIT_DONE, ConfigError, Problem
from trainkit.profile.order import Order, trace
from trainkit.profile.trace import PHASES, Trace
from trainkit.runfolder import RunFolder

OPTIONS = {
    "--steps 5": "so many steps, after 3 that are not recorded",
    "--ranks 0": "0 | all: which ranks are recorded",
    "--to FILE": "the trace, and no run folder is left; of all ranks one each: FILE with .rank_R before its ending",
}
DETAILS = {"options": OPTIONS}
CHOICES = {"--steps": None, "--ranks": ("0", "all"), "--to": None}

STEPS, WARMUP, MOST = 5, 3, 10
AFTER = ("tracker=none", "train.patience=null", "checkpoint.metric=null", "resume=auto")
"""What the person's words may not change. Whatever else happens every so many steps, happens here too."""


def main(words: Sequence[str]) -> int:
    plain, given = parse(words, CHOICES)
    order = Order(warmup=WARMUP, steps=whole(given, "--steps", 1) or STEPS, every_rank=given.get("--ranks") == "all")
    wanted = [*plain, *AFTER]
    target = None
    if "--to" in given:
        target = place(given["--to"])
        wanted.append(f"run.dir={passing('profile')}")
    config, settings, cluster = prepare(wanted)
    folder = RunFolder(Path(settings.run.dir))
    if folder.root.is_dir() and any(folder.root.iterdir()):
        found = "has something in it, and a profile is a run of its own"
        raise ConfigError([Problem("run.dir", folder.root, found, "name a new folder, or leave it out")])
    order.write(folder)
    code = quietly(config, settings, cluster, wanted)
    if code != EXIT_DONE:
        say(f"it did not get to its end; its folder is {folder.root}", error=True)
        return code
    files = {rank: trace(folder, rank) for rank in range(cluster.ranks if order.every_rank else 1)}
    show({rank: Trace.read(file) for rank, file in files.items()})
    for rank, file in files.items():
        say(f"trace  {file if target is None else moved(file, target, len(files), rank)}")
    if target is not None:
        shutil.rmtree(folder.root)
    return EXIT_DONE


def place(word: str) -> Path:
    """Where the trace is to be. Raises ConfigError."""
    path = Path(word).expanduser().absolute()
    if path.is_dir() or not path.parent.is_dir():
        found = "is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise ConfigError([Problem("--to", word, found, "name the file that the trace is written to")])
    return path


def moved(source: Path, target: Path, ranks: int, rank: int) -> Path:
    path = target if ranks == 1 else target.with_name(f"{target.stem}.rank_{rank}{target.suffix}")
    shutil.move(source, path)
    return path


def show(traces: Mapping[int, Trace]) -> None:
    """Where the time of each rank went, and what took most of the first one's."""
    first = next(iter(traces.values()))
    count, shares = len(first.steps), [each.shares() for each in traces.values()]
    title(f"{count} steps of {first.seconds / count * 1000:.3g} ms")
    header = ("", *(f"rank {rank}" for rank in traces))
    show_table(header, [(phase, *(f"{share[phase]:6.1%}" for share in shares)) for phase in PHASES])
    title("\nthe most expensive operations" + (" of rank 0" if len(traces) > 1 else ""))
    rows = [
        (name, f"{calls / count:g}", f"{seconds / count * 1000:.3g} ms", f"{seconds / first.seconds:6.1%}")
        for name, calls, seconds in first.operations()[:MOST]
    ]
    show_table(("operation", "calls a step", "time a step", "of the time"), rows)
    say("")
