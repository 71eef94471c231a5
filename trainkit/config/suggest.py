"""'did you mean', for keys and choices."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

ELSEWHERE = {
    (
        "launcher",
        "horovodrun",
    ): "strategy=horovod runs under launcher=local, ssh, mpi and slurm; docs/multinode.md says "
    "why not under Horovod's own driver",
    (
        "launcher",
        "torchrun",
    ): "launcher=local starts and watches the ranks of this machine, as torchrun does, or of several",
}
"""What others call what is another choice here."""


def suggest(wrong: str, known: Iterable[str]) -> str:
    """A hint that names the nearest of `known`, or nothing. The last part of a dotted key is compared by itself, or
    any two keys of one section would look alike."""
    section, _, leaf = wrong.rpartition(".")
    anywhere: dict[str, list[str]] = {}
    for name in known:
        anywhere.setdefault(name.rpartition(".")[2], []).append(name)
    siblings = {key: name for key, names in anywhere.items() for name in names if name.rpartition(".")[0] == section}

    def near(names: Iterable[str], cutoff: float) -> list[str]:
        return difflib.get_close_matches(leaf, names, 1, cutoff)

    if found := near(siblings, 0.75):  # train.step -> train.steps
        return f"did you mean {siblings[found[0]]}?"
    if found := near(anywhere, 0.8):  # train.lr -> optimizer.lr, trian.steps -> train.steps
        return f"did you mean {difflib.get_close_matches(wrong, anywhere[found[0]], 1, 0.0)[0]}?"
    if found := near(siblings, 0.6):  # dpp -> ddp
        return f"did you mean {siblings[found[0]]}?"
    return ""
