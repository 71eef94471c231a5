"""What only shows when the parts are seen together, and what the run folder holds. Reads, never writes."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass, replace
from pathlib import Path

import yaml

from trainkit.checkpoint import memory
from trainkit.checkpoint.cadence import parse
from trainkit.config.saved import Newest, newest
from trainkit.errors import ConfigError, Problem
from trainkit.preflight import Configured, Divides
from trainkit.protocols import Cluster
from trainkit.runfolder import RunFolder, is_url
from trainkit.settings import Settings, fixed_keys

LEAST_FREE = 64 * 2**20


def check(settings: Settings, cluster: Cluster) -> list[Problem]:
    """Every problem of a run on `cluster` that can be known before it starts."""
    return [
        *_length(settings),
        *_evaluation(settings),
        *_cadence(settings, cluster),
        *_device(settings, cluster),
        *_ranks(settings, cluster),
        *settings.schedule.problems(settings.train.steps),
        *settings.tracker.problems(),
        *settings.recipe.problems(),
        *_folder(settings),
    ]


def fitting(settings: Settings, cluster: Cluster) -> tuple[int, ...]:
    """Those of `cluster.fewer` that the run could go on with."""
    return tuple(n for n in cluster.fewer if not [*_ranks(settings, replace(cluster, ranks=n))])


def refused(settings: Settings, cluster: Cluster) -> list[Problem]:
    """What keeps the run from these ranks, wherever they are and whoever starts them."""
    return [*_spread(settings, cluster)]


def _ranks(settings: Settings, cluster: Cluster) -> Iterator[Problem]:
    """What depends on the number of ranks."""
    yield from _spread(settings, cluster)
    yield from settings.launcher.problems(cluster)


def _spread(settings: Settings, cluster: Cluster) -> Iterator[Problem]:
    yield from _batch(settings, cluster)
    yield from settings.strategy.problems(cluster)
    yield from _claims(settings, cluster)
    yield from _model(settings, cluster)


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
        fitting = _divisors(share)
        nearest = [max(n for n in fitting if n < micro), *[n for n in fitting if n > micro][:1]]
        yield Problem(
            "train.micro_batch",
            micro,
            f"does not divide the {share} samples that each rank gets per step",
            f"set it to {' or '.join(str(n) for n in nearest)}",
        )


def _divisors(n: int) -> list[int]:
    small = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    return sorted({*small, *(n // d for d in small)})


def _evaluation(settings: Settings) -> Iterator[Problem]:
    if settings.train.patience is not None and settings.train.eval_every is None:
        yield Problem(
            "train.patience",
            settings.train.patience,
            "counts evaluations, but there are none during the run",
            "set train.eval_every to a number of steps",
        )
    metric = settings.checkpoint.metric
    if metric is not None and not metric.startswith("eval_"):
        hint = "eval_loss, or eval_ and the name of another metric of the recipe"
        yield Problem("checkpoint.metric", metric, "must be a held-out metric", hint)
    elif metric is not None and settings.train.eval_every is None:
        yield Problem(
            "checkpoint.metric",
            metric,
            "compares evaluations, but there are none during the run",
            "set train.eval_every to a number of steps, or checkpoint.metric=null",
        )


def _cadence(settings: Settings, cluster: Cluster) -> Iterator[Problem]:
    every = settings.checkpoint.every
    try:
        if every is not None:
            parse(every)
    except ValueError as error:
        hint = 'a number of steps, or for example "500 samples", "1e6 tokens", "10 minutes" or auto'
        yield Problem("checkpoint.every", every, str(error), hint)
    if settings.checkpoint.memory_every is not None:
        lacking = memory.problem(settings.checkpoint.memory_every)
        yield from [] if lacking is None else [lacking]


def _device(settings: Settings, cluster: Cluster) -> Iterator[Problem]:
    if settings.train.device == "cuda" and not cluster.gpus:
        yield Problem(
            "train.device",
            "cuda",
            "no GPU that the installed torch can use was found",
            "set train.device=auto or cpu; `trainkit env` shows what there is",
        )


def _claims(settings: Settings, cluster: Cluster) -> Iterator[Problem]:
    """Where the recipe and the strategy, or a file of the framework's own, say different things."""
    if not isinstance(settings.strategy, Configured):
        return
    for claim in settings.strategy.claims(cluster):
        ours = _value(settings, claim.key)
        if ours not in claim.values:
            wanted = json.dumps(claim.values[0]).strip('"')
            yield Problem(claim.key, ours, claim.said, f"set {claim.key}={wanted}, or {claim.otherwise}")


def _value(settings: Settings, key: str) -> object:
    """What the dotted `key` is set to; of a component its name. None where another component has no such key."""
    value: object = settings
    for name in key.split("."):
        value = getattr(value, name, None)
    return type(value).__module__.rpartition(".")[2] if is_dataclass(value) else value


def _model(settings: Settings, cluster: Cluster) -> Sequence[Problem]:
    if not isinstance(settings.strategy, Divides):
        return ()
    shape = settings.recipe.model_shape()
    return () if shape is None else settings.strategy.model_problems(shape, cluster.ranks)


def _folder(settings: Settings) -> Iterator[Problem]:
    run = RunFolder(Path(settings.run.dir))
    problems = [*_writable("run.dir", run.root)]
    chosen = settings.checkpoint.dir
    if chosen is not None and not is_url(chosen):
        problems += _writable("checkpoint.dir", Path(chosen).absolute())
    try:
        saved = None if problems else newest(settings)
    except ConfigError as error:
        problems += error.problems
    if problems:
        yield from problems
        return
    if settings.resume == "must" and saved is None:
        yield Problem("resume", "must", f"there is no checkpoint in {run.root}", "set resume=auto to start anew")
    if settings.resume == "never" and saved is not None:
        yield Problem(
            "resume",
            "never",
            f"{saved.root} holds checkpoints up to step {saved.step}",
            "choose another run.dir, or resume=auto to go on",
        )
    other = [*_other_recipe(settings, run.config)] if run.config.exists() else []
    yield from other
    if saved is not None and not other and settings.resume != "never":
        yield from _other_checkpoint(settings, saved)


def _writable(key: str, path: Path) -> Iterator[Problem]:
    """What keeps the folder `path`, which need not exist yet, from being written to."""
    try:
        where = existing(path)
    except OSError as error:  # a name that is too long, a parent that may not be looked into
        yield Problem(key, path, f"cannot be used: {error.strerror}", f"choose another {key}")
        return
    if not where.is_dir():
        yield Problem(key, path, f"{where} is a file, not a folder", f"choose another {key}")
    elif not os.access(where, os.W_OK) or os.statvfs(where).f_flag & os.ST_RDONLY or _total(where) == 0:
        yield Problem(key, path, f"{where} cannot be written to", f"choose another {key}")
    elif (free := shutil.disk_usage(where).free) < LEAST_FREE:
        yield Problem(key, path, f"its disk is full: {free >> 20} MiB free", f"free space, or choose another {key}")


def _total(where: Path) -> int:
    """The size of the disk in bytes; /proc and its like have none."""
    return shutil.disk_usage(where).total


def existing(path: Path) -> Path:
    """The nearest of `path` and its parents that exists."""
    return path if path.exists() else existing(path.parent)


def _other_recipe(settings: Settings, config: Path) -> Iterator[Problem]:
    recipe = type(settings.recipe)
    try:
        old = yaml.safe_load(config.read_text())
        name, was = old["name"], old["recipe"]["_target_"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        yield Problem("run.dir", settings.run.dir, f"{config} was not written by trainkit", "choose another run.dir")
        return
    if was != f"{recipe.__module__}.{recipe.__qualname__}":
        hint = "choose another run.dir"
        yield Problem("run.dir", settings.run.dir, f"this folder holds a run of {name} ({was})", hint)


def _other_checkpoint(settings: Settings, saved: Newest) -> Iterator[Problem]:
    """A checkpoint goes on only with the keys that it was written with."""
    try:
        wrote = json.loads(saved.manifest)["about"]["fixed"]
    except (ValueError, KeyError):
        return  # damaged: the rank that wants to read it says so, and takes the one before
    for key, after in fixed_keys(settings).items():
        before = wrote.get(key, after)
        if before != after:
            yield Problem(
                key,
                after,
                f"the checkpoint {saved.where} was written with {before}, and does not fit another",
                f"set {key}={before} to go on, or choose another run.dir",
            )
