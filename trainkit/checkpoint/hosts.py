"""Which ranks see the same memory, and which file of a snapshot goes from whom to whom. Pure; imports no torch.

write   each rank's files go to a rank of the next host, so that every file is in the memory of two
read    the newest snapshot of which every file is whole on some host; what a host lacks is sent to it
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from trainkit.checkpoint.manifest import MANIFEST, Digest

Key = tuple[int, str]
"""A snapshot: its step, and the checksum of its manifest."""


@dataclass(frozen=True, slots=True)
class Hosts:
    """The ranks of each host, ascending; a host is named by its first rank, and these ascend too."""

    groups: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, tokens: Sequence[str]) -> Hosts:
        """From what each rank reads in its memory: the same for those that see the same."""
        groups: dict[str, list[int]] = {}
        for rank, token in enumerate(tokens):
            groups.setdefault(token, []).append(rank)
        return cls(tuple(map(tuple, groups.values())))

    def __len__(self) -> int:
        return len(self.groups)

    def at(self, rank: int) -> int:
        """The number of its host."""
        return next(number for number, group in enumerate(self.groups) if rank in group)

    def leads(self, rank: int) -> bool:
        """Whether it does for its host what one rank has to do."""
        return rank == self.groups[self.at(rank)][0]

    def share(self, rank: int) -> slice:
        """Which files on its host it looks at, so that its ranks divide the work."""
        group = self.groups[self.at(rank)]
        return slice(group.index(rank), None, len(group))

    def part(self, rank: int) -> float:
        """How much of what all ranks write comes into its memory: of its host's ranks and those of the one before."""
        host = self.at(rank)
        return sum(len(self.groups[each]) for each in {host, (host - 1) % len(self)}) / sum(map(len, self.groups))

    def rank(self, host: int, number: int) -> int:
        """One of its ranks: as `number` grows, each in turn."""
        group = self.groups[host % len(self)]
        return group[number % len(group)]


@dataclass(frozen=True, slots=True)
class Move:
    """A file that rank `source` sends to rank `target`."""

    name: str
    source: int
    target: int


@dataclass(frozen=True, slots=True)
class Sight:
    """What a rank has seen of a snapshot in its memory. `files`: all that belong to it, as its manifest says, the
    manifest too; told by the first rank of each host. `whole`: those of the rank's share that are there, undamaged."""

    files: Mapping[str, Digest] = field(default_factory=dict)
    whole: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Choice:
    """The snapshot to go on from. `holders`: the hosts that have a folder of it; `moves` complete every host's."""

    step: int
    seal: str
    files: Mapping[str, Digest]
    holders: frozenset[int]
    moves: tuple[Move, ...]


def ring(hosts: Hosts, written: Sequence[Collection[str]], small: Collection[str]) -> list[Move]:
    """Who sends what once each rank has `written` its files. `small`: of rank 0, for every host."""
    moves = []
    for rank, names in enumerate(written):
        host = hosts.at(rank)
        moves += [Move(name, rank, hosts.rank(host + 1, hosts.groups[host].index(rank))) for name in sorted(names)]
    return [*moves, *(Move(name, 0, group[0]) for name in sorted(small) for group in hosts.groups[1:])]


def choose(hosts: Hosts, seen: Sequence[Mapping[Key, Sight]]) -> tuple[Choice | None, dict[int, list[str]]]:
    """The newest of the snapshots that the ranks have `seen`, in rank order, of which every file is whole somewhere;
    and of each newer one the files that are not."""
    lost: dict[int, list[str]] = {}
    for step, seal in sorted({key for each in seen for key in each}, reverse=True):
        sights = [[seen[rank].get((step, seal)) for rank in group] for group in hosts.groups]
        files = next((sight.files for group in sights for sight in group if sight is not None and sight.files), {})
        whole = [frozenset[str]().union(*(sight.whole for sight in group if sight)) for group in sights]
        if missing := [name for name in files or (MANIFEST,) if not any(name in have for have in whole)]:
            lost[step] = missing
            continue
        holders = frozenset(host for host, group in enumerate(sights) if any(sight is not None for sight in group))
        return Choice(step, seal, files, holders, tuple(_fill(hosts, whole, files))), lost
    return None, lost


def _fill(hosts: Hosts, whole: Sequence[Collection[str]], files: Collection[str]) -> list[Move]:
    """Have every host get what it lacks; those who have it take turns in sending."""
    moves = []
    for host, have in enumerate(whole):
        for number, name in enumerate(sorted({*files} - {*have})):
            sources = [other for other, those in enumerate(whole) if name in those]
            source = hosts.rank(sources[(host + number) % len(sources)], host + number)
            moves.append(Move(name, source, hosts.rank(host, number)))
    return moves
