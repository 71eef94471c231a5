"""Who keeps what of a snapshot over several hosts, and what is left of it when some are gone: by itself, no process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from trainkit.checkpoint.hosts import Hosts, Key, Sight, choose, ring
from trainkit.checkpoint.manifest import MANIFEST, Digest

SMALL = {MANIFEST, ".metadata", "trainer.json"}
layouts = st.lists(st.integers(1, 3), min_size=1, max_size=5).map(
    lambda sizes: Hosts.of([str(host) for host, size in enumerate(sizes) for _ in range(size)])
)


@dataclass(frozen=True)
class Kept:
    """What each host of a run has of one snapshot: all of its files, by name."""

    hosts: list[set[str]]
    files: Mapping[str, Digest]

    @property
    def seal(self) -> str:
        return self.files[MANIFEST].xxh3


def kept(hosts: Hosts, step: int) -> Kept:
    """After it was written."""
    written = [{f"__{rank}_0.distcp"} for group in hosts.groups for rank in group]
    have = [{f"__{rank}_0.distcp" for rank in group} for group in hosts.groups]
    have[0] |= SMALL
    for move in ring(hosts, written, SMALL):
        assert move.name in have[hosts.at(move.source)]
        have[hosts.at(move.target)].add(move.name)
    names = {name for names in written for name in names} | SMALL
    return Kept(have, {name: Digest(1, f"{name} of {step}") for name in names})


def seen(now: Hosts, was: list[int | None], snapshots: dict[int, Kept]) -> list[dict[Key, Sight]]:
    """What the ranks of `now` see, whose hosts were those in `was` (None: it is new)."""
    ranks: list[dict[Key, Sight]] = []
    for rank in range(sum(map(len, now.groups))):
        host, sights = was[now.at(rank)], dict[Key, Sight]()
        for step, each in snapshots.items() if host is not None else ():
            if have := each.hosts[host if host is not None else 0]:
                share = frozenset(sorted(have)[now.share(rank)])
                sights[step, each.seal] = Sight(each.files if now.leads(rank) else {}, share)
        ranks.append(sights)
    return ranks


@given(layouts)
def test_every_file_is_on_two_hosts_and_no_host_has_more_than_two_shares(hosts: Hosts) -> None:
    snapshot = kept(hosts, 1)
    for name in snapshot.files:
        holders = sum(name in have for have in snapshot.hosts)
        assert holders == (len(hosts) if name in SMALL else min(2, len(hosts)))
    for number, have in enumerate(snapshot.hosts):
        share = len(have - SMALL) / (len(snapshot.files) - len(SMALL))
        assert share == hosts.part(hosts.groups[number][0])


@given(layouts, st.data())
def test_what_is_left_is_enough_unless_two_that_follow_each_other_are_lost(hosts: Hosts, data: st.DataObject) -> None:
    """The hosts are the same ones afterwards; those that are lost are new. What each lacks is sent to it by one that
    has it."""
    lost = data.draw(st.sets(st.integers(0, len(hosts) - 1)))
    snapshot = kept(hosts, 4)
    was = [None if host in lost else host for host in range(len(hosts))]
    choice, missing = choose(hosts, seen(hosts, was, {4: snapshot}))
    gap = any(host in lost and (host + 1) % len(hosts) in lost for host in range(len(hosts)))
    assert (choice is None) == gap
    if choice is None:
        assert [*missing] == ([] if len(lost) == len(hosts) else [4])
        return
    have = [set() if host is None else {*snapshot.hosts[host]} for host in was]
    for move in choice.moves:
        source, target = hosts.at(move.source), hosts.at(move.target)
        assert move.name in have[source]
        assert move.name not in have[target]
    for move in choice.moves:
        have[hosts.at(move.target)].add(move.name)
    assert have == [{*snapshot.files}] * len(hosts)
    assert choice.holders == {*range(len(hosts))} - lost
    assert (choice.step, choice.seal, choice.files) == (4, snapshot.seal, snapshot.files)


@given(layouts, layouts, st.data())
def test_hosts_in_another_order_and_number_find_the_same(before: Hosts, now: Hosts, data: st.DataObject) -> None:
    count = min(len(before), len(now))
    chosen = data.draw(st.permutations(range(len(before))).map(lambda order: order[:count]))
    was: list[int | None] = [*chosen, *[None] * (len(now) - count)]
    snapshot = kept(before, 4)
    choice, _ = choose(now, seen(now, was, {4: snapshot}))
    left = {name for host in chosen for name in snapshot.hosts[host]}
    assert (choice is not None) == (left == {*snapshot.files})


@given(layouts, st.data())
def test_a_file_that_is_damaged_is_taken_from_the_other_host(hosts: Hosts, data: st.DataObject) -> None:
    """Several on several hosts: only a file of which no copy is left makes it one that cannot be used."""
    snapshot = kept(hosts, 4)
    copies = sorted((host, name) for host, have in enumerate(snapshot.hosts) for name in have)
    for host, name in data.draw(st.sets(st.sampled_from(copies), max_size=6)):
        snapshot.hosts[host].discard(name)
    gone = {*snapshot.files} - {name for have in snapshot.hosts for name in have}
    choice, lost = choose(hosts, seen(hosts, [*range(len(hosts))], {4: snapshot}))
    assert (choice is None) == bool(gone)
    assert {*lost.get(4, gone)} == gone


@given(layouts.filter(lambda hosts: len(hosts) > 2), st.data())
def test_a_commit_that_did_not_reach_all_is_used_only_if_it_is_whole(hosts: Hosts, data: st.DataObject) -> None:
    """The host that is lost had not committed; the snapshot before is on all hosts still."""
    reached = data.draw(st.sets(st.integers(0, len(hosts) - 1)))
    old, new = kept(hosts, 4), kept(hosts, 5)
    for host in range(len(hosts)):
        if host not in reached:
            new.hosts[host].clear()
    (lost,) = data.draw(st.sets(st.integers(0, len(hosts) - 1), min_size=1, max_size=1))
    was = [None if host == lost else host for host in range(len(hosts))]
    choice, _ = choose(hosts, seen(hosts, was, {4: old, 5: new}))
    left = {name for host in reached - {lost} for name in new.hosts[host]}
    assert choice is not None
    assert choice.step == (5 if left == {*new.files} else 4)


def test_two_snapshots_of_one_step_are_not_mixed() -> None:
    """A host that was away has one that another attempt wrote."""
    hosts = Hosts.of(["a", "b", "c"])
    mine, other = kept(hosts, 4), kept(hosts, 5)
    sights = [
        {(4, mine.seal): Sight(mine.files, frozenset(mine.hosts[0]))},
        {(4, other.seal): Sight(other.files, frozenset(other.hosts[1]))},
        {},
    ]
    choice, lost = choose(hosts, sights)
    assert choice is None
    assert lost[4] == ["__1_0.distcp"] or lost[4] == ["__2_0.distcp"]
