"""A snapshot in the memory of several hosts: each has a folder of the same name, with some of the files. Collective.

    spread    every rank's files to the next host, what rank 0 wrote to all; what arrives is verified
    complete  what the hosts have is looked at by their ranks, the newest that is whole is chosen, and what a host
              lacks of it is sent there: then each can read all of it

A host commits its folder when all files are on two of them (store.py), so a host that is lost with its memory costs
nothing; two that follow each other are too much.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from trainkit.checkpoint import manifest as m
from trainkit.checkpoint import memory
from trainkit.checkpoint.agree import agreed, together
from trainkit.checkpoint.hosts import Hosts, Key, Move, Sight, choose, ring
from trainkit.protocols import Ranks, Say


def spread(
    ranks: Ranks, hosts: Hosts, written: Sequence[Mapping[str, m.Digest]], added: Mapping[str, m.Digest], folder: Path
) -> dict[str, m.Digest]:
    """Send the files that each rank has `written` to `folder` to the next host, and those that rank 0 has `added` to
    all. Returns the files that this host has then. Raises CheckpointError on every rank if one fails."""
    files = {**added, **{name: digest for part in written for name, digest in part.items()}}
    if len(hosts) == 1:
        return files
    moves = ring(hosts, written, added)
    _send(ranks, moves, files, folder)
    group = hosts.groups[hosts.at(ranks.rank)]
    ours = {name for rank in group for name in written[rank]} | {move.name for move in moves if move.target in group}
    return {name: files[name] for name in ours | {*added}}


def complete(ranks: Ranks, hosts: Hosts, place: Path, say: Say) -> Path | None:
    """The newest snapshot in `place` of which every file is whole on some host, whole on each of them; what is lost of
    newer ones is told. Raises CheckpointError on every rank if a host cannot take what it lacks."""
    choice, lost = choose(hosts, together(ranks, lambda: _seen(place, hosts, ranks.rank)))
    if ranks.rank == 0:
        for step, names in lost.items():
            told = f"{', '.join(names[:3])}{' and others' if len(names) > 3 else ''}"
            say(f"snapshot of step {step}: no host is left that has {told}, undamaged; looking at the one before it")
    if choice is None:
        return None
    host, final = hosts.at(ranks.rank), m.step_folder(place, choice.step)
    here = final if host in choice.holders else place / f".fetching-{final.name}"
    lacks = sum(choice.files[move.name].size for move in choice.moves if move.target in hosts.groups[host])
    agreed(ranks, lambda: _make_room(here, final, lacks) if hosts.leads(ranks.rank) else None)
    _send(ranks, choice.moves, choice.files, here)
    new = here != final and hosts.leads(ranks.rank)
    agreed(ranks, lambda: m.commit(here, final, choice.files) if new else None)
    return final


def _seen(place: Path, hosts: Hosts, rank: int) -> dict[Key, Sight]:
    """The snapshots on this host; its ranks divide the reading."""
    seen = {}
    for step in m.steps(place):
        path = m.step_folder(place, step)
        if (files := m.files(path)) is not None:
            share = list(files)[hosts.share(rank)]
            whole = frozenset(name for name in share if m.is_whole(path / name, files[name]))
            seen[step, files[m.MANIFEST].xxh3] = Sight(files if hosts.leads(rank) else {}, whole)
    return seen


def _make_room(here: Path, final: Path, lacks: int) -> None:
    """For the bytes that this host lacks; `here` is the folder that they come to."""
    memory.room(lacks)
    if here != final:
        if final.exists():  # another one of this step, which fewer hosts have
            m.discard(final)
        shutil.rmtree(here, ignore_errors=True)
        here.mkdir()


def _send(ranks: Ranks, moves: Sequence[Move], files: Mapping[str, m.Digest], folder: Path) -> None:
    from trainkit.checkpoint.transfer import transfer  # imports torch

    agreed(ranks, lambda: transfer(ranks, moves, files, folder))
