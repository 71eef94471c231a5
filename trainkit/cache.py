"""Where converted models, tokenizers and token files are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """$TRAINKIT_CACHE, else $XDG_CACHE_HOME/trainkit, else ~/.cache/trainkit; made if it is not there."""
    chosen = os.environ.get("TRAINKIT_CACHE")
    base = Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trainkit"
    base.mkdir(parents=True, exist_ok=True)
    return base
