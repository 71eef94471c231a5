"""'did you mean', for keys and choices."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggest(wrong: str, known: Iterable[str]) -> str:
    """A hint that names the nearest of `known`, or nothing. Keys of another section with the same last part count
    as near: train.lr means optimizer.lr."""
    names = list(known)
    leaf = wrong.rsplit(".", 1)[-1]
    near = difflib.get_close_matches(wrong, names, 1, cutoff=0.75)
    near = near or [name for name in names if name.rsplit(".", 1)[-1] == leaf]
    near = near or difflib.get_close_matches(wrong, names, 1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else ""
