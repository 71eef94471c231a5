"""What only shows when the parts are seen together, and what the run folder holds. Reads, never writes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from trainkit.checkpoint.manifest import committed
from trainkit.errors import Problem
from trainkit.protocols import Cluster
from trainkit.runfolder import RunFolder
from trainkit.settings import Settings

LEAST_FREE = 64 * 2**20


def check(settings: Settings, cluster: Cluster) -> list[Problem]:
    """Every problem of a run on `cluster` that can be known before it starts."""
    return [
        *_length(settings),
        *_batch(settings, cluster),
        *_evaluation(settings),
        *_device(settings, cluster),
        *settings.strategy.problems(cluster),
        *settings.launcher.problems(cluster),
        *settings.schedule.problems(settings.train.steps),
        *settings.tracker.problems(),
        *settings.recipe.problems(),
        *_folder(settings),
    ]


def _length(settings: Settings) -> Iterator[Problem]:
    steps, epochs = settings.train.steps, settings.train.epochs
    if (steps is None) == (epochs is None):
        found = "neither is set" if steps is None else f"both are set (train.epochs={epochs})"
        hint = "set one of them, and the other to null"
        yield Problem("train.steps", steps, f"exactly one of train.steps and train.epochs says how long: {found}", hint)


def _batch(settings: Settings, cluster: Cluster) -> Iterator[Problem]:
    batch, micro = settings.train.global_batch, settings.train.micro_batch
    ranks = settings.strategy.dp_size(cluster.ranks)
    if batch % ranks:
        lower = batch - batch % ranks
        near = " or ".join(str(n) for n in (lower, lower + ranks) if n)
        yield Problem(
            "train.global_batch", batch, f"does not divide by the {ranks} data-parallel ranks", f"set it to {near}"
        )
    elif micro is not None and (batch // ranks) % micro:
        share = batch // ranks
        near = ", ".join(str(n) for n in range(1, share + 1) if share % n == 0)
        yield Problem(
            "train.micro_batch",
            micro,
            f"does not divide the {share} samples that each rank gets per step",
            f"one of {near}",
        )


def _evaluation(settings: Settings) -> Iterator[Problem]:
    if settings.train.patience is not None and settings.train.eval_every is None:
        yield Problem(
            "train.patience",
            settings.train.patience,
            "counts evaluations, but there are none during the run",
            "set train.eval_every to a number of steps",
        )


def _device(settings: Settings, cluster: Cluster) -> Iterator[Problem]:
    if settings.train.device == "cuda" and not cluster.gpus:
        yield Problem(
            "train.device",
            "cuda",
            "no GPU that the installed torch can use was found",
            "set train.device=auto or cpu; `trainkit env` shows what there is",
        )


def _folder(settings: Settings) -> Iterator[Problem]:
    run = RunFolder(Path(settings.run.dir))
    where = existing(run.root)
    if not where.is_dir():
        yield Problem("run.dir", run.root, f"{where} is a file, not a folder")
        return
    if not os.access(where, os.W_OK) or os.statvfs(where).f_flag & os.ST_RDONLY:
        yield Problem("run.dir", run.root, f"{where} cannot be written to", "choose another run.dir")
        return
    free = shutil.disk_usage(where).free
    if free < LEAST_FREE:
        yield Problem("run.dir", run.root, f"its disk is full: {free >> 20} MiB free", "free space, or choose another")
    saved = committed(run.checkpoints(settings.checkpoint.dir))
    if settings.resume == "must" and not saved:
        yield Problem("resume", "must", f"there is no checkpoint in {run.root}", "set resume=auto to start anew")
    if settings.resume == "never" and saved:
        yield Problem(
            "resume",
            "never",
            f"{run.root} holds checkpoints up to step {saved[-1]}",
            "choose another run.dir, or resume=auto to go on",
        )
    if run.config.exists():
        yield from _other_run(settings, yaml.safe_load(run.config.read_text()), bool(saved))


def existing(path: Path) -> Path:
    """The nearest of `path` and its parents that exists."""
    return path if path.exists() else existing(path.parent)


def _other_run(settings: Settings, old: dict[str, Any], saved: bool) -> Iterator[Problem]:
    """A run folder goes on only with what it began with, as far as the samples and their order depend on it."""
    recipe = type(settings.recipe)
    was = old["recipe"]["_target_"]
    if was != f"{recipe.__module__}.{recipe.__qualname__}":
        hint = "choose another run.dir"
        yield Problem("run.dir", settings.run.dir, f"this folder holds a run of {old['name']} ({was})", hint)
    elif saved:
        for key in ("seed", "global_batch"):
            before, now = old["train"][key], getattr(settings.train, key)
            if before != now:
                yield Problem(
                    f"train.{key}",
                    now,
                    f"the run in this folder was started with {before}; another would repeat or skip samples",
                    f"set train.{key}={before}, or choose another run.dir",
                )
