"""A rank's entry: read the resolved configuration, build the parts, train.

config.yaml -> prepare (once per machine) -> connect -> data -> handshake -> engine -> Trainer.fit
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
import signal
import sys
import traceback
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from trainkit.errors import EXIT_FAILED, ConfigError, CorruptError, Problem, TrainkitError
from trainkit.launcher._warm import note
from trainkit.resilience import failure
from trainkit.resilience.pulse import Lifeline, Pulse, unnoted
from trainkit.resilience.stop import StopFlag
from trainkit.runfolder import RunFolder, is_url, replace_text

if TYPE_CHECKING:
    from trainkit.checkpoint.copier import Copier
    from trainkit.protocols import Data, Outcome, Training
    from trainkit.settings import Settings

COPY_S = 600.0  # so long the end of a run waits for the copy of its last checkpoint

stop = StopFlag()
"""Raised by a signal to this process; the agent installs it before it forks the ranks, so no signal is missed."""


def work(root: str, attempt: int, again: bool, pulse: Pulse, rank: int) -> Outcome:
    """Be rank `rank` of `attempt` in the run folder `root`; `again`: it goes on from an attempt of the same command.
    A fault leaves logs/attempt_A/rank_R.failure.json behind and exits with the code of the error."""
    stop.install()
    faulthandler.register(signal.SIGQUIT)  # all threads, into the rank's log: what the agent asks for when a run hangs
    folder = RunFolder(Path(root))
    try:
        trains = partial(note, folder.modules(attempt)) if rank == 0 and not again else unnoted
        return train(folder, attempt, again, Lifeline(stop, partial(pulse.beat, rank), trains))
    except Exception as error:
        if not isinstance(error, TrainkitError):  # the others say it all in their message
            traceback.print_exc()
        code = error.exit_code if isinstance(error, TrainkitError) else EXIT_FAILED
        message = str(error) if isinstance(error, TrainkitError) else f"{type(error).__name__}: {error}"
        told = failure.event(message, rank) | {"exit_code": code, "traceback": traceback.format_exc()}
        if isinstance(error, TrainkitError) and error.hopeless:
            told |= {"cause": "refused"}
        if isinstance(error, CorruptError):  # all ranks raise it; it is told of the one that it is about
            told |= {"rank": error.rank, "cause": "corrupt"}
        replace_text(folder.logs(attempt) / f"rank_{rank}.failure.json", json.dumps(told))
        pulse.beat(rank, pulse.read(rank).step, "leaving")
        sys.exit(code)


def train(folder: RunFolder, attempt: int, again: bool, lifeline: Lifeline) -> Outcome:
    """Build everything that config.yaml names, and fit."""
    from trainkit.config import load

    settings = load(folder.config)
    if again:  # from its own checkpoint, which resume=never cannot have meant, if there is one yet
        settings = replace(settings, resume="auto")
    prepare(settings)
    return fit(settings, folder, attempt, lifeline)


def fit(settings: Settings, folder: RunFolder, attempt: int, lifeline: Lifeline | None = None) -> Outcome:
    """Join the other ranks, build data and engine, train."""
    from trainkit.checkpoint.store import CheckpointStore
    from trainkit.handshake import shake_hands
    from trainkit.trainer import Trainer

    share_cores()
    world = settings.strategy.connect(settings.train.device)
    seed_host(settings.train.seed)
    data = settings.recipe.build_data()
    check(data)
    shake_hands(settings, data, world)
    engine = settings.strategy.build(training(settings), world)
    copier = copies(settings, folder)
    checkpoints = folder.checkpoints(settings.checkpoint.dir)
    store = CheckpointStore(checkpoints, world, attempt, about(settings, world.size), say, copier)
    lifeline = lifeline or Lifeline(stop)
    trainer = Trainer(settings, engine, world, data, store, folder, lifeline)
    outcome = trainer.fit()
    world.close()
    if copier is not None:
        copier.finish(COPY_S, lambda: lifeline.beat(trainer.progress.step, "finishing"))
    return outcome


def copies(settings: Settings, folder: RunFolder) -> Copier | None:
    """What copies the checkpoints to the store, if checkpoint.dir names one."""
    url = settings.checkpoint.dir
    if url is None or not is_url(url):
        return None
    from trainkit.checkpoint.copier import Copier
    from trainkit.checkpoint.remote import Remote

    return Copier(Remote(url), folder.checkpoints(url), settings.checkpoint, folder.event)


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
