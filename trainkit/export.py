"""The trained model for use without trainkit, made from a committed checkpoint: one way for every strategy."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from trainkit.canonical import trainable, trained_state
from trainkit.checkpoint.store import CheckpointStore
from trainkit.settings import Settings


def export(settings: Settings, store: CheckpointStore, checkpoint: Path, folder: Path, averaged: bool) -> None:
    """Write the weights in the verified `checkpoint` (with `averaged`, the averaged ones) to `folder`, in one rename.

    Runs on one rank; needs the memory of one whole model.
    """
    torch.manual_seed(settings.train.seed)
    model = settings.recipe.build_model()
    state: dict[str, Any] = {"model": trained_state(model)}
    if averaged:
        state["ema"] = {name: p.detach() for name, p in trainable(model)}
        state["model"] = {k: v for k, v in state["model"].items() if k not in state["ema"]}
    store.load(checkpoint, state, partial=True)
    written = folder.with_name(f".{folder.name}-writing")
    shutil.rmtree(written, ignore_errors=True)
    settings.recipe.export(model.eval(), written)
    shutil.rmtree(folder, ignore_errors=True)
    written.rename(folder)
