"""Where converted models, tokenizers and token files are kept between runs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path


def cache_folder() -> Path:
    """$TRAINKIT_CACHE, else $XDG_CACHE_HOME/trainkit, else ~/.cache/trainkit; made if it is not there."""
    chosen = os.environ.get("TRAINKIT_CACHE")
    base = Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trainkit"
    base.mkdir(parents=True, exist_ok=True)
    return base


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """`folder`, filled by `make(folder to write to)` if it is not there yet. It appears whole or not at all, and of
    several processes that want it one makes it while the others wait."""
    if folder.exists():
        return folder
    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not folder.exists():
            writing = folder.with_name(f".{folder.name}-writing")
            shutil.rmtree(writing, ignore_errors=True)  # of one that was ended half way
            writing.mkdir()
            make(writing)
            writing.rename(folder)
    return folder
