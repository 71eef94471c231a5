"""The trained model for use without trainkit, made from a committed checkpoint: one way for every strategy."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from trainkit.canonical import trainable, trained_state
from trainkit.checkpoint.store import CheckpointStore, newest
from trainkit.errors import CheckpointError
from trainkit.protocols import Say
from trainkit.settings import Settings


def export(settings: Settings, store: CheckpointStore, folder: Path, say: Say) -> None:
    """Write the newest checkpoint's weights (the averaged ones with train.ema) to `folder`, in one rename.

    Runs on one rank; needs the memory of one whole model. Raises CheckpointError without a good checkpoint.
    """
    found, _ = newest(store.folder, say)
    if found is None:
        raise CheckpointError(f"nothing to export: there is no good checkpoint in {store.folder}")
    torch.manual_seed(settings.train.seed)
    model = settings.recipe.build_model()
    state: dict[str, Any] = {"model": trained_state(model)}
    if settings.train.ema is not None:
        state["ema"] = {name: p.detach() for name, p in trainable(model)}
        state["model"] = {k: v for k, v in state["model"].items() if k not in state["ema"]}
    store.load(found, state, partial=True)
    written = folder.with_name(f".{folder.name}-writing")
    shutil.rmtree(written, ignore_errors=True)
    settings.recipe.export(model.eval(), written)
    shutil.rmtree(folder, ignore_errors=True)
    written.rename(folder)
