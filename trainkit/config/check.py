"""What only shows when the parts are seen together, and what the run folder holds. Reads, never writes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from trainkit.checkpoint.manifest import MANIFEST, committed, step_folder
from trainkit.errors import Problem
from trainkit.protocols import Cluster
from trainkit.runfolder import RunFolder
from trainkit.settings import Settings, fixed_keys

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
        yield from _other_recipe(settings, yaml.safe_load(run.config.read_text()))
    if saved and settings.resume != "never":
        folder = run.checkpoints(settings.checkpoint.dir)
        yield from _other_checkpoint(settings, step_folder(folder, saved[-1]) / MANIFEST)


def existing(path: Path) -> Path:
    """The nearest of `path` and its parents that exists."""
    return path if path.exists() else existing(path.parent)


def _other_recipe(settings: Settings, old: dict[str, Any]) -> Iterator[Problem]:
    recipe = type(settings.recipe)
    was = old["recipe"]["_target_"]
    if was != f"{recipe.__module__}.{recipe.__qualname__}":
        hint = "choose another run.dir"
        yield Problem("run.dir", settings.run.dir, f"this folder holds a run of {old['name']} ({was})", hint)


def _other_checkpoint(settings: Settings, manifest: Path) -> Iterator[Problem]:
    """A checkpoint goes on only with the keys that it was written with."""
    try:
        wrote = json.loads(manifest.read_text())["about"]["fixed"]
    except (OSError, ValueError, KeyError):
        return  # damaged: the rank that wants to read it says so, and takes the one before
    for key, after in fixed_keys(settings).items():
        before = wrote.get(key, after)
        if before != after:
            yield Problem(
                key,
                after,
                f"the checkpoint {manifest.parent} was written with {before}, and does not fit another",
                f"set {key}={before} to go on, or choose another run.dir",
            )
