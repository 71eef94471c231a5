"""What a rank does in one attempt: read the resolved configuration, build the parts, train.

config.yaml -> prepare (once per machine) -> data -> connect -> handshake -> engine -> Trainer.fit
"""

from __future__ import annotations

import gc
import os
import random
import sys
import time
import traceback
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from trainkit.errors import ConfigError, Problem
from trainkit.resilience.pulse import Lifeline
from trainkit.resilience.stop import StopFlag
from trainkit.runfolder import RunFolder, is_url

if TYPE_CHECKING:
    from trainkit.checkpoint.copier import Copier
    from trainkit.protocols import Data, Outcome, Training, World
    from trainkit.rescue import Pocket
    from trainkit.settings import Checkpoint, Settings
    from trainkit.trainer import Trainer

COPY_S = 600.0  # so long the end of a run waits for the copy of its last checkpoint

stop = StopFlag()
"""Raised by a signal to this process; the agent installs it before it forks the ranks, so no signal is missed."""


@dataclass(frozen=True)
class Ready:
    """What a rank has before it meets the others, and keeps from one attempt to the next."""

    settings: Settings
    data: Data


def load_settings(folder: RunFolder) -> Settings:
    """Those of config.yaml."""
    from trainkit.config import load

    return load(folder.config)


def get_ready(folder: RunFolder) -> Ready:
    """Build what needs no other rank."""
    settings = load_settings(folder)
    prepare(settings)
    return with_data(settings)


def with_data(settings: Settings) -> Ready:
    """`settings` and the data of their recipe, which has been prepared."""
    share_cores()
    seed_host(settings.train.seed)
    data = settings.recipe.build_data()
    check(data)
    return Ready(settings, data)


def fit(
    ready: Ready,
    folder: RunFolder,
    attempt: int,
    lifeline: Lifeline | None = None,
    carried: Pocket | None = None,
) -> Outcome:
    """Join the other ranks, build the engine, train. A fault that leaves the newest step in the pocket `carried` leaves
    this process free to join other ranks."""
    from torch.distributed import group

    from trainkit.rescue import Pocket

    settings, lifeline, pocket = ready.settings, lifeline or Lifeline(stop), carried or Pocket()
    pocket.bound, pocket.broke = True, None
    world = settings.strategy.connect(settings.train.device)
    connections = group.WORLD  # None without a process group
    try:
        outcome = train(ready, world, folder, attempt, lifeline, pocket)
    except Exception as error:
        pocket.broke = time.time()
        if pocket.kept is not None and world.lets_go:
            forget_frames(error)
            world.close()
            del world
            gc.collect()
            # Last, and here: DistributedDataParallel would end gloo's threads with Python's lock in its hand, for which
            # they may be waiting.
            del connections
            pocket.bound = False
        raise
    return outcome


def forget_frames(error: BaseException) -> None:
    """Let go of what was at work when `error` came up. A process group closes its connections when nobody holds it any
    more, and not all ranks talk to all: those that do not talk to the dead one notice when we have left."""
    cause: BaseException | None = error
    while cause is not None:
        traceback.clear_frames(cause.__traceback__)
        cause = cause.__context__


def train(ready: Ready, world: World, folder: RunFolder, attempt: int, lifeline: Lifeline, pocket: Pocket) -> Outcome:
    """Train with the ranks of `world`, and leave them."""
    from trainkit.checkpoint.store import CheckpointStore
    from trainkit.handshake import shake_hands

    settings = ready.settings
    shake_hands(settings, ready.data, world)
    seed_host(settings.train.seed)  # again: data that was kept was not built just now
    engine = settings.strategy.build(training(settings), world)
    copying = copies(settings, folder)
    checkpoints = folder.checkpoints(settings.checkpoint.dir)
    store = CheckpointStore(checkpoints, world, attempt, about(settings, world.size), say, copying)
    trainer = loop(folder)(settings, engine, world, ready.data, store, folder, lifeline)
    outcome = trainer.fit(pocket)
    world.close()
    if copying is not None:
        copying.finish(COPY_S, lambda: lifeline.beat(trainer.progress.step, "finishing"))
    return outcome


def loop(folder: RunFolder) -> type[Trainer]:
    """The training loop, or that with a profiler in it."""
    from trainkit.profile.order import ordered
    from trainkit.trainer import Trainer

    if not ordered(folder):
        return Trainer

    from trainkit.profile.trainer import ProfiledTrainer

    return ProfiledTrainer


def copies(settings: Settings, folder: RunFolder) -> Copier | None:
    """What copies the checkpoints to the store, if checkpoint.dir names one."""
    url = settings.checkpoint.dir
    return copier(url, settings.checkpoint, folder) if url is not None and is_url(url) else None


@cache
def copier(url: str, keep: Checkpoint, folder: RunFolder) -> Copier:
    """One for the whole process: a rank that stays after a fault may still be copying, and two would not know of each
    other."""
    from trainkit.checkpoint.copier import Copier
    from trainkit.checkpoint.remote import Remote

    return Copier(Remote(url), folder.checkpoints(url), keep, folder.event)


def prepare(settings: Settings) -> None:
    """The recipe's slow one-time work, by one process per machine; the others wait, then find it done."""
    from filelock import FileLock

    from trainkit.cache import cache_folder

    speaks = os.environ.get("LOCAL_RANK", "0") == "0"
    with FileLock(cache_folder() / f"{type(settings.recipe).__name__}.lock"):
        settings.recipe.prepare(say if speaks else silent)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def silent(text: str) -> None:
    pass


def share_cores() -> None:
    """Ranks that share a machine share its cores: each would start as many threads as there are cores otherwise."""
    import torch

    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if here > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // here))


def seed_host(seed: int) -> None:
    """Seed what is not torch's: what a recipe draws while it builds its data is the same on every rank."""
    import numpy as np

    random.seed(seed)
    np.random.seed(seed % 2**32)


def check(data: Data) -> None:
    """An empty data set would train nothing and divide by zero."""
    problems = []
    if len(data.train) == 0:
        problems.append(Problem("recipe", "build_data()", "the training set is empty", "give it at least one sample"))
    if data.heldout is not None and len(data.heldout) == 0:
        problems.append(Problem("recipe", "build_data()", "the held-out set is empty", "return None for no evaluation"))
    if problems:
        raise ConfigError(problems)


def training(settings: Settings) -> Training:
    """What a strategy needs to know of the settings."""
    from trainkit.protocols import Training

    train = settings.train
    return Training(
        task=settings.recipe,
        optimizer=settings.optimizer,
        seed=train.seed,
        clip_norm=train.clip_norm,
        precision=train.precision,
        activation_checkpointing=train.activation_checkpointing,
        compile=train.compile,
        ema=train.ema,
    )


def about(settings: Settings, ranks: int) -> dict[str, object]:
    """What a checkpoint says of the run that wrote it."""
    import torch

    from trainkit import __version__
    from trainkit.settings import fixed_keys, name_of

    return {
        "recipe": settings.name,
        "fixed": fixed_keys(settings),
        "strategy": name_of(settings.strategy),
        "ranks": ranks,
        "versions": {"trainkit": __version__, "torch": str(torch.__version__)},
    }
