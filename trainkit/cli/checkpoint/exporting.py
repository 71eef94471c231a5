"""checkpoint export RUN|CHECKPOINT DIR [--format F] [--weights W]: the weights for use without trainkit.

safetensors   DIR/model.safetensors, under the model's own names; written part by part
hf            the folder that the run leaves as RUN/model: the recipe's own export
torch         DIR/model.pt: torch.save of {name: tensor}
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainkit.checkpoint import manifest as m
from trainkit.checkpoint.store import CheckpointStore, reason
from trainkit.cli.checkpoint.place import Place, find
from trainkit.cli.checkpoint.words import parse
from trainkit.cli.terminal import say, size
from trainkit.errors import EXIT_DONE, CheckpointError, ConfigError, Problem

CHOICES = {"--format": ("safetensors", "hf", "torch"), "--weights": ("model", "ema")}


def main(words: Sequence[str]) -> int:
    (word, target), given = parse("export", words, 2, CHOICES)
    place, folder = find(word), Path(target).expanduser().absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError([Problem("", "", f"{folder} exists already", "name a new folder")])
    checkpoint = trusted(place)
    averaged = choose(checkpoint, given.get("--weights"))
    chosen = given.get("--format", "safetensors")
    with written(folder) as writing:
        if chosen == "hf":
            as_run_leaves_it(place, checkpoint, writing, averaged)
        else:
            from trainkit.checkpoint import plain

            if chosen == "safetensors":
                plain.write_safetensors(checkpoint, writing / "model.safetensors", averaged)
            else:
                plain.write_torch(checkpoint, writing / "model.pt", averaged)
    total = size(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()))
    files = ", ".join(sorted(file.name for file in folder.iterdir()))
    say(f"{folder}: {'averaged weights' if averaged else 'weights'} of {checkpoint}")
    say(f"    {files} ({total})")
    return EXIT_DONE


def trusted(place: Place) -> Path:
    """The checkpoint that was named, or the newest good one of the run. Raises CheckpointError if it is damaged."""
    if place.one is None:
        place.steps()
        latest = store(place).latest()
        if latest is not None:
            return latest
    found = place.one or place.folder
    problems = m.verify(found)
    if problems:
        raise CheckpointError(f"checkpoint {found} is damaged: {'; '.join(problems)}")
    return found


def choose(checkpoint: Path, wanted: str | None) -> bool:
    """Whether the averaged weights are exported: by default where there are some, as the run itself does."""
    there = any(name.startswith("ema.") for name in m.read_manifest(checkpoint)["tensors"])
    if wanted == "ema" and not there:
        hint = "a run keeps them with train.ema=0.999, or another decay"
        raise ConfigError([Problem("--weights", "ema", f"{checkpoint} holds no averaged weights", hint)])
    return there and wanted != "model"


@contextmanager
def written(folder: Path) -> Iterator[Path]:
    """A new folder to write to, which becomes `folder` in one rename. Raises CheckpointError if the disk is full."""
    writing = folder.with_name(f".{folder.name}-writing")
    shutil.rmtree(writing, ignore_errors=True)
    try:
        writing.mkdir(parents=True)
        yield writing
        writing.rename(folder)
    except OSError as error:
        raise CheckpointError(f"cannot write {folder}: {reason(error)}") from error
    finally:
        shutil.rmtree(writing, ignore_errors=True)


def as_run_leaves_it(place: Place, checkpoint: Path, writing: Path, averaged: bool) -> None:
    """The recipe's own export. Raises ConfigError where that is no Hugging Face folder, or the recipe is not known."""
    if not place.run.config.is_file():
        found = f"the recipe is not known: there is no {place.run.config}"
        raise ConfigError([Problem("--format", "hf", found, "name the run folder, or choose safetensors")])
    from trainkit.config import load
    from trainkit.export import export
    from trainkit.main import prepare

    settings = load(place.run.config)
    prepare(settings)
    export(settings, store(place), checkpoint, writing, averaged)
    if not (writing / "config.json").exists():
        found = f"recipe {settings.name} exports no Hugging Face model"
        raise ConfigError([Problem("--format", "hf", found, "choose safetensors or torch")])


def store(place: Place) -> CheckpointStore:
    import torch

    from trainkit.strategy._world import Solo

    about: dict[str, Any] = {}
    return CheckpointStore(place.folder, Solo(device=torch.device("cpu")), 0, about, say)
