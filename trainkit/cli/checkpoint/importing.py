"""checkpoint import SOURCE RUN recipe=NAME [key=value ...]: another program's checkpoint as the first of a new run.

The words after RUN are those of the run, which then goes on from it: the recipe's model says which names there must
be, its optimizer which moments. Nothing is written before all of it fits.
"""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from trainkit.cli.checkpoint.words import parse
from trainkit.cli.run import prepare
from trainkit.cli.terminal import say, size
from trainkit.cli.words import whole
from trainkit.config import newest
from trainkit.errors import EXIT_DONE, ConfigError, Problem, TrainkitError
from trainkit.foreign.formats import FORMATS, recognise
from trainkit.runfolder import RunFolder, replace_text
from trainkit.settings import Settings

if TYPE_CHECKING:
    from trainkit.checkpoint.store import Saved
    from trainkit.foreign.source import Foreign, Trained


def main(words: Sequence[str]) -> int:
    choices = {"--format": tuple(FORMATS), "--step": None}
    plain, given = parse("import", words, 2, choices, ["--weights-only"], more=True)
    source, run, keys = Path(plain[0]).expanduser().absolute(), plain[1], plain[2:]
    step = whole(given, "--step", 0)
    chosen = recognise(source, given.get("--format"))
    config, settings, _ = prepare([*keys, f"run.dir={run}"])
    folder = RunFolder(Path(settings.run.dir))
    if saved := newest(settings):
        raise ConfigError([Problem("", "", f"{saved.root} has checkpoints up to step {saved.step}", "name a new run")])
    made = bring(settings, source, chosen, step, "--weights-only" in given)
    replace_text(folder.config, yaml.safe_dump(config, sort_keys=False))
    say(f"{made.path}: step {made.step}, {size(made.bytes)}, from {chosen} {source}")
    say(f"to go on from it: python -m trainkit {shlex.join([*keys, f'run.dir={run}'])}")
    return EXIT_DONE


def bring(settings: Settings, source: Path, chosen: str, step: int | None, weights_only: bool) -> Saved:
    """Write the checkpoint of `source` into the run's folder. Raises ConfigError if it is not of the recipe's model.

    `step`: where the run goes on; None: where the source was, if its moments come along, else at 0.
    """
    import torch

    from trainkit import main as rank
    from trainkit.canonical import trainable
    from trainkit.checkpoint.store import CheckpointStore
    from trainkit.foreign.fill import fill
    from trainkit.progress import Progress
    from trainkit.strategy._spmd import SpmdEngine, task_model
    from trainkit.strategy._world import Solo

    rank.prepare(settings)
    world = Solo(device=torch.device("cpu"))
    training = replace(rank.training(settings), activation_checkpointing=False, compile=False)
    model = task_model(training, world)
    state = SpmdEngine(training, model, model, world).state_dict()
    foreign = read(source, chosen, None if weights_only else {name: p.shape for name, p in trainable(model)})
    if weights_only:
        foreign = replace(foreign, moments={})
    fill(model, state, foreign)
    if step is None:
        step = (foreign.step or 0) if foreign.moments else 0
    samples = position(settings, step) if step else 0
    about = rank.about(settings, 1) | {"strategy": f"import from {chosen}"}
    folder = RunFolder(Path(settings.run.dir)).checkpoints(settings.checkpoint.dir)
    store = CheckpointStore(folder, world, 0, about, say)
    return store.save(step, state, {"progress": asdict(Progress(step, samples)), "metrics": {}})


def position(settings: Settings, step: int) -> int:
    """The samples that a run of these settings has consumed after `step` steps. Raises ConfigError if it has no more
    steps than that."""
    from trainkit import main as rank
    from trainkit.data.order import Order
    from trainkit.data.plan import Plan

    train = settings.train
    rank.seed_host(train.seed)
    order = Order(len(settings.recipe.build_data().train), train.seed)
    plan = Plan(order, train.global_batch, None, 0, 1)
    total = plan.total_steps(train.steps, train.epochs)
    if step >= total:
        found = f"the run would be at its end: it goes on at step {step}, and ends after {total}"
        raise ConfigError([Problem("train.steps", train.steps, found, "give it more steps, or choose --step")])
    return plan.samples_after(step)


def read(source: Path, chosen: str, trained: Trained | None) -> Foreign:
    """What the reader of the format makes of `source`. Raises ConfigError if it can make nothing of it."""
    try:
        foreign: Foreign = importlib.import_module(f"trainkit.foreign.{chosen}").read(source, trained)
    except TrainkitError:
        raise
    except Exception as error:  # whatever a library raises means the same here: these files are not what they seem
        reason = str(error).strip().splitlines() or [""]
        found = f"{source} cannot be read as {chosen}: {type(error).__name__}: {reason[0]}"
        raise ConfigError([Problem("", "", found, FORMATS[chosen].marks)]) from error
    return foreign
