"""validate recipe=NAME [key=value ...]: what would run, or everything that is wrong with it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trainkit.cli.run import prepare
from trainkit.cli.terminal import say, show_rows, title
from trainkit.config import newest
from trainkit.errors import EXIT_DONE
from trainkit.protocols import Cluster
from trainkit.secrets import hidden, shown_word
from trainkit.settings import Settings


def main(words: Sequence[str]) -> int:
    config, settings, cluster = prepare(words)
    title(f"{settings.name}: OK")
    show_rows(summary(hidden(config), settings, cluster))
    say(f"\nto run it: python -m trainkit {shlex.join(map(shown_word, words))}")
    return EXIT_DONE


def summary(config: dict[str, Any], settings: Settings, cluster: Cluster) -> Iterator[tuple[str, str]]:
    """What would run, in the order in which a person would ask."""
    train = settings.train
    yield "recipe", _component(config["recipe"])
    yield "strategy", _component(config["strategy"])
    yield "launcher", f"{_component(config['launcher'])}: {_machine(settings, cluster)}"
    yield "length", f"{train.steps} steps" if train.steps else f"{train.epochs} epochs"
    yield "batch", _batch(settings, cluster)
    yield "precision", train.precision
    yield "optimizer", _component(config["optimizer"])
    yield "schedule", _component(config["schedule"])
    yield "evaluation", "before and after" + (f", every {train.eval_every} steps" if train.eval_every else "")
    yield "checkpoints", _checkpoints(settings)
    trackers = [config["tracker"]] if "_target_" in config["tracker"] else config["tracker"].values()
    yield "tracker", ", ".join(_component(tracker) for tracker in trackers)
    yield "run folder", _folder(settings)


def _component(node: dict[str, Any]) -> str:
    """A component by name with its keys: ddp (bucket_cap_mb=25, timeout_s=600)."""
    name = node["_target_"].split(".")[-2]
    keys = ", ".join(f"{key}={json.dumps(value)}" for key, value in node.items() if key != "_target_")
    return f"{name} ({keys})" if keys else name


def _machine(settings: Settings, cluster: Cluster) -> str:
    gpu = cluster.gpus and settings.train.device != "cpu"
    found = f"{cluster.gpus} GPU(s)" if gpu else f"CPU, {cluster.cores} cores"
    return f"{cluster.ranks} rank(s) on {found}"


def _batch(settings: Settings, cluster: Cluster) -> str:
    batch, ranks = settings.train.global_batch, settings.strategy.dp_size(cluster.ranks)
    micro = settings.train.micro_batch or batch // ranks
    return f"{batch} samples per step = {ranks} rank(s) x {batch // ranks // micro} micro-batch(es) of {micro}"


def _checkpoints(settings: Settings) -> str:
    chosen = settings.checkpoint
    every = f"every {chosen.every}{' steps' if isinstance(chosen.every, int) else ''} and " if chosen.every else ""
    if chosen.every == "auto":
        every = "as often as loses the least time and "
    stay = [f"the newest {chosen.keep}"]
    stay += [f"the first of every {chosen.keep_every} steps"] if chosen.keep_every else []
    stay += [f"the best by {chosen.metric}"] if chosen.metric else []
    return f"{every}at the end; {' and '.join(stay)} stay"


def _folder(settings: Settings) -> str:
    saved = newest(settings)
    return f"{Path(settings.run.dir)}, {f'goes on from step {saved.step}' if saved else 'new'}"
