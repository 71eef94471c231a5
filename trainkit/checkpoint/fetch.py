"""A checkpoint comes back from the store (checkpoint.dir is a URL) to the local disk. Imports no torch."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from trainkit.checkpoint import manifest as m
from trainkit.checkpoint.agree import together
from trainkit.checkpoint.remote import Found, Remote, whole
from trainkit.protocols import Ranks
from trainkit.runfolder import sync_folder


def listed(remote: Remote, ranks: Ranks) -> Found:
    """The copies that carry a marker; rank 0 asks for all. Collective; raises CheckpointError if it cannot."""

    def ask() -> Found:
        if ranks.rank != 0:
            return {}
        found = remote.found()
        return {step: found[step] for step in whole(found)}

    return together(ranks, ask)[0]


def fetch(remote: Remote, step: int, names: Sequence[str], folder: Path, ranks: Ranks) -> list[str]:
    """Fetch the copy of `step`, which has the files `names`, into `folder`, and verify it; the ranks divide both.
    Returns what is wrong with it. Only if nothing is, it takes the place of step_N; a damaged one is moved aside.

    Collective. Raises CheckpointError on every rank if the store or the disk fails on one.
    """
    final = m.step_folder(folder, step)
    fetching, share = folder / f".fetching-{final.name}", slice(ranks.rank, None, ranks.size)

    def clear() -> None:
        if ranks.rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(fetching, ignore_errors=True)  # of a start that was killed
            fetching.mkdir()

    def bring() -> None:
        for name in names[share]:
            with suppress(FileNotFoundError):  # gone since it was listed: verify() names it
                remote.get(step, name, fetching)

    def settle() -> None:
        if ranks.rank != 0:
            return
        if problems:
            shutil.rmtree(fetching)
            return
        if final.exists():
            m.set_aside(final)
        fetching.rename(final)
        sync_folder(folder)

    together(ranks, clear)
    together(ranks, bring)
    wrong = together(ranks, lambda: m.verify(fetching, share))
    problems = list(dict.fromkeys(problem for each in wrong for problem in each))
    together(ranks, settle)
    return problems
