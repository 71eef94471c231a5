"""'did you mean', for keys and choices."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggest(wrong: str, known: Iterable[str]) -> str:
    """A hint that names the nearest of `known`, or nothing: first a sibling (train.step means train.steps), then the
    same name in another section (train.lr means optimizer.lr), then a mistyped section (trian.steps)."""
    names = list(known)
    section, _, leaf = wrong.rpartition(".")
    siblings = {name.rpartition(".")[2]: name for name in names if name.rpartition(".")[0] == section}
    near = [siblings[name] for name in difflib.get_close_matches(leaf, siblings, 1, cutoff=0.6)]
    near = near or [name for name in names if name.rpartition(".")[2] == leaf]
    near = near or (difflib.get_close_matches(wrong, names, 1, cutoff=0.75) if not siblings else [])
    return f"did you mean {near[0]}?" if near else ""
