"""Snapshots of real ranks on several hosts: each host's memory is a folder of its own here."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conformance.pool import Pool
from tests.unit.checkpoint.samples import damage, equal, store_in, trainer
from tests.unit.checkpoint.test_ranks import joined
from trainkit.checkpoint import leaving, memory, transfer
from trainkit.checkpoint import manifest as m
from trainkit.checkpoint.snapshots import Snapshots
from trainkit.errors import CheckpointError
from trainkit.protocols import World
from trainkit.runfolder import RunFolder

TWO, FOUR, THREE = (0, 1), (0, 0, 1, 1), (0, 1, 2)


def state(step: int, rank: int) -> dict[str, Any]:
    """What one stage of a pipeline holds; more than one message can take."""
    return {"model": {f"stage{rank}.weight": torch.full((transfer.CHUNK // 4 + 5,), step + rank / 8)}}


def of_run(base: Path, hosts: Sequence[int], world: World, said: list[str], told: list[Any]) -> Snapshots:
    memory.ROOT = base / f"host{hosts[world.rank]}"
    memory.ROOT.mkdir(parents=True, exist_ok=True)
    folder = RunFolder(base / "run")
    (folder.root / "logs").mkdir(parents=True, exist_ok=True)
    disk = store_in(folder.checkpoints(None), world, said=said)
    return Snapshots(disk, folder, world, 1, lambda kind, **fields: told.append((kind, fields)))


def keep(base: Path, hosts: Sequence[int], steps: Sequence[int], staged: bool = True) -> list[Any]:
    """Take snapshots of `steps`; what rank 0 tells."""
    told: list[Any] = []
    with joined() as world:
        snapshots = of_run(base, hosts, world, [], told)
        for step in steps:
            _take(snapshots, step, state(step, world.rank), staged)
    return told


def _take(snapshots: Snapshots, step: int, of: dict[str, Any], staged: bool = True) -> None:
    try:
        rest = snapshots.begin(step, of, trainer(step), staged)
    except CheckpointError as error:
        snapshots.failed(step, error)
    else:
        snapshots.finish(step, rest, None)


def go_on(base: Path, hosts: Sequence[int]) -> tuple[int | None, list[str]]:
    """The step that these ranks go on from, None for none, and what is said; what they read is what was written."""
    said: list[str] = []
    told: list[Any] = []
    with joined() as world:
        snapshots = of_run(base, hosts, world, said, told)
        found = snapshots.or_newer()
        if found is None:
            return None, said
        step = m.read_manifest(found)["step"]
        into = state(0, world.rank)
        assert snapshots._disk.load(found, into) == trainer(step)
        assert equal(into, state(step, world.rank))
        snapshots.settle(found)
        place = memory.find(snapshots._folder)
        used = found.parent != snapshots._disk.folder
        assert (world.rank != 0) or [kind for kind, _ in told] == ["snapshot_used"] * used
        assert place is None or (m.verify(m.step_folder(place, step)) == []) == used
    return step, said


def place(base: Path, host: int) -> Path:
    (found,) = (base / f"host{host}" / f"trainkit-{os.getuid()}").iterdir()
    return found


def goes(pool: Pool, base: Path, hosts: Sequence[int]) -> tuple[int | None, list[str]]:
    """All ranks agree on the step."""
    answers = pool.run(len(hosts), go_on, base, hosts, timeout=60)
    assert len({step for step, _ in answers}) == 1
    return answers[0]  # type: ignore[no-any-return]


def on_disk(pool: Pool, base: Path, ranks: int, step: int) -> None:
    pool.run(ranks, _save, base, step)


def _save(base: Path, step: int) -> None:
    with joined() as world:
        store_in(base / "run/checkpoints", world).save(step, state(step, world.rank), trainer(step))


@pytest.mark.parametrize(
    ("hosts", "staged"),
    [(TWO, True), (FOUR, False), pytest.param(THREE, True, marks=pytest.mark.slow)],
)
def test_every_host_has_its_own_files_and_those_of_the_one_before(
    hosts: tuple[int, ...], staged: bool, pool: Pool, tmp_path: Path
) -> None:
    told, *_ = pool.run(len(hosts), keep, tmp_path, hosts, [3, 4], staged)
    assert [(kind, fields["step"]) for kind, fields in told] == [("snapshot", 3), ("snapshot", 4)]
    count = max(hosts) + 1
    for host in range(count):
        path = place(tmp_path, host) / "step_4"
        assert sorted(each.name for each in path.parent.iterdir()) == ["HOST", "RUN", "step_4"]
        mine = {f"__{rank}_0.distcp" for rank, its in enumerate(hosts) if its in (host, (host - 1) % count)}
        assert {each.name for each in path.iterdir()} == mine | {".metadata", "trainer.json", m.MANIFEST, m.MARKER}
        files = m.files(path)
        assert files is not None
        assert all(m.is_whole(path / name, files[name]) for name in mine)
    assert told[-1][1]["bytes"] == sum(digest.size for name, digest in files.items() if name != m.MANIFEST)
    assert goes(pool, tmp_path, hosts) == (4, [])


def test_on_one_host_nothing_is_sent(pool: Pool, tmp_path: Path) -> None:
    pool.run(2, keep, tmp_path, (0, 0), [3])
    assert m.verify(place(tmp_path, 0) / "step_3") == []
    assert goes(pool, tmp_path, (0, 0)) == (3, [])


@pytest.mark.parametrize(
    ("hosts", "lost", "then"),
    [
        (FOUR, 1, FOUR),
        (TWO, 1, (0, 0)),
        (TWO, 0, (5, 1)),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((TWO, 1, TWO), (TWO, 0, TWO), (THREE, 2, THREE))),
    ],
)
def test_a_host_that_is_lost_costs_nothing(
    hosts: tuple[int, ...], lost: int, then: tuple[int, ...], pool: Pool, tmp_path: Path
) -> None:
    """It comes back empty, or does not come back, or another one comes, first among all."""
    pool.run(len(hosts), keep, tmp_path, hosts, [3])
    shutil.rmtree(tmp_path / f"host{lost}")
    assert goes(pool, tmp_path, then) == (3, [])
    told, *_ = pool.run(len(then), keep, tmp_path, then, [4])
    assert told[0][0] == "snapshot"
    assert goes(pool, tmp_path, then) == (4, [])


def test_two_neighbours_of_three_that_are_lost_cost_the_snapshot(pool: Pool, tmp_path: Path) -> None:
    on_disk(pool, tmp_path, 3, 2)
    pool.run(3, keep, tmp_path, THREE, [3])
    for host in (1, 2):
        shutil.rmtree(tmp_path / f"host{host}")
    step, said = goes(pool, tmp_path, THREE)
    assert step == 2
    assert said == [
        "snapshot of step 3: no host is left that has __1_0.distcp, undamaged; looking at the one before it"
    ]


@pytest.mark.parametrize(
    "name",
    [
        "__0_0.distcp",
        m.MANIFEST,
        *(pytest.param(name, marks=pytest.mark.slow) for name in (".metadata", "trainer.json", m.MARKER)),
    ],
)
def test_a_file_that_is_damaged_on_one_host_is_taken_from_the_other_and_on_both_from_nobody(
    name: str, pool: Pool, tmp_path: Path
) -> None:
    on_disk(pool, tmp_path, 2, 2)
    pool.run(2, keep, tmp_path, TWO, [3])
    damage(place(tmp_path, 1), 3, name)
    assert goes(pool, tmp_path, TWO) == (3, [])
    for host in (0, 1):
        damage(place(tmp_path, host), 3, name)
    assert goes(pool, tmp_path, TWO)[0] == 2


def test_a_disk_that_is_newer_or_as_new_is_read_from(pool: Pool, tmp_path: Path) -> None:
    pool.run(2, keep, tmp_path, TWO, [3])
    on_disk(pool, tmp_path, 2, 4)
    assert goes(pool, tmp_path, TWO) == (4, [])
    assert [each.name for each in place(tmp_path, 1).iterdir() if each.is_dir()] == []


def test_a_snapshot_of_which_a_host_was_lost_between_the_commits_is_not_used(pool: Pool, tmp_path: Path) -> None:
    """Only host 0 had committed, so none had deleted the one before; host 2 comes back empty."""
    pool.run(3, keep, tmp_path, THREE, [3])
    for host in (0, 1, 2):
        shutil.copytree(place(tmp_path, host) / "step_3", tmp_path / f"before{host}")
    pool.run(3, keep, tmp_path, THREE, [4])
    (place(tmp_path, 1) / "step_4").rename(place(tmp_path, 1) / ".writing-step_4.1")
    for host in (0, 1):
        shutil.copytree(tmp_path / f"before{host}", place(tmp_path, host) / "step_3")
    shutil.rmtree(tmp_path / "host2")
    step, said = goes(pool, tmp_path, THREE)
    assert step == 3
    assert said == [
        "snapshot of step 4: no host is left that has __1_0.distcp, undamaged; looking at the one before it"
    ]


def test_a_host_that_was_away_does_not_bring_back_what_the_run_has_gone_back_from(pool: Pool, tmp_path: Path) -> None:
    pool.run(2, keep, tmp_path, TWO, [7])
    (tmp_path / "host1").rename(tmp_path / "away")
    pool.run(2, _goes_back, tmp_path, (0, 0))
    (tmp_path / "away").rename(tmp_path / "host1")
    assert goes(pool, tmp_path, TWO) == (None, [])
    pool.run(2, keep, tmp_path, TWO, [3])
    assert goes(pool, tmp_path, TWO) == (3, [])


def _goes_back(base: Path, hosts: Sequence[int]) -> None:
    with joined() as world:
        of_run(base, hosts, world, [], []).settle(None)


# -------------------------------------------------------------------------------------------- faults


def test_where_one_host_has_no_room_it_is_told_and_the_one_before_stays(pool: Pool, tmp_path: Path) -> None:
    pool.run(2, keep, tmp_path, TWO, [3])
    told, *_ = pool.run(2, _full, tmp_path, TWO)
    ((kind, fields),) = told
    assert (kind, fields["step"]) == ("snapshot_failed", 4)
    assert "rank 1: a snapshot takes" in fields["message"]
    assert goes(pool, tmp_path, TWO) == (3, [])
    assert all(len([*place(tmp_path, host).iterdir()]) == 3 for host in (0, 1))


def _full(base: Path, hosts: Sequence[int]) -> list[Any]:
    told: list[Any] = []
    real = memory.room
    with joined() as world:
        snapshots = of_run(base, hosts, world, [], told)
        memory.room = lambda size: real(size if world.rank == 0 else 1 << 60)
        _take(snapshots, 4, state(4, world.rank))
    memory.room = real
    return told


def test_the_one_before_is_deleted_only_when_all_have_committed(pool: Pool, tmp_path: Path) -> None:
    pool.run(2, keep, tmp_path, TWO, [3])
    told, *_ = pool.run(2, _uncommitted, tmp_path, TWO)
    assert [kind for kind, _ in told] == ["snapshot_failed"]
    assert "rank 1: the power went" in told[0][1]["message"]
    steps = [m.steps(place(tmp_path, host)) for host in (0, 1)]
    assert steps == [[3, 4], [3]]
    shutil.rmtree(tmp_path / "host0")
    assert goes(pool, tmp_path, TWO) == (3, [])


def _uncommitted(base: Path, hosts: Sequence[int]) -> list[Any]:
    told: list[Any] = []
    real = m.commit

    def commit(*what: Any) -> None:
        raise CheckpointError("the power went")

    with joined() as world:
        m.commit = commit if world.rank == 1 else real
        _take(of_run(base, hosts, world, [], told), 4, state(4, world.rank))
    m.commit = real
    return told


FAULTS = ("cannot be written", "is damaged on the way", "cannot be read")


@pytest.mark.parametrize("fault", [FAULTS[0], *(pytest.param(each, marks=pytest.mark.slow) for each in FAULTS[1:])])
def test_a_file_that_does_not_reach_the_neighbour(fault: str, pool: Pool, tmp_path: Path) -> None:
    """It is told on every rank, nobody waits for anyone, and the next one works."""
    pool.run(2, keep, tmp_path, TWO, [3])
    answers = pool.run(2, _spoilt, tmp_path, TWO, fault, timeout=30)
    (kind, fields), (last, _) = answers[0]
    assert (kind, last) == ("snapshot_failed", "snapshot")
    who = 0 if fault == "cannot be written" else 1
    assert f"rank {who}: " in fields["message"]
    assert goes(pool, tmp_path, TWO) == (5, [])


def _spoilt(base: Path, hosts: Sequence[int], fault: str) -> list[Any]:
    told: list[Any] = []
    real = transfer._End.__init__

    def spoilt(end: transfer._End, *args: Any, **more: Any) -> None:
        real(end, *args, **more)
        if not end._name.endswith("__0_0.distcp" if fault != "cannot be written" else "__1_0.distcp"):
            return
        if end.sends and fault == "is damaged on the way":
            end._file = Path("/dev/zero").open("rb", buffering=0)  # noqa: SIM115
        if end.sends and fault == "cannot be read":
            end._file = None
        if not end.sends and fault == "cannot be written":
            end._file = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115

    with joined() as world:
        snapshots = of_run(base, hosts, world, [], told)
        transfer._End.__init__ = spoilt  # type: ignore[method-assign]
        _take(snapshots, 4, state(4, world.rank))
        transfer._End.__init__ = real  # type: ignore[method-assign]
        _take(snapshots, 5, state(5, world.rank))
    return told


def test_a_host_that_cannot_take_what_it_lacks_goes_on_from_the_disk(pool: Pool, tmp_path: Path) -> None:
    on_disk(pool, tmp_path, 2, 2)
    pool.run(2, keep, tmp_path, TWO, [3])
    shutil.rmtree(tmp_path / "host1")
    (step, said), (other, _) = pool.run(2, _no_room, tmp_path, TWO)
    assert step == other == 2
    assert len(said) == 1
    assert said[0].startswith("no snapshot can be gone on from: rank 1: a snapshot takes")


def _no_room(base: Path, hosts: Sequence[int]) -> tuple[int | None, list[str]]:
    real = memory.room

    def room(size: int) -> None:
        real(size if str(memory.ROOT).endswith("host0") else 1 << 60)

    memory.room = room
    try:
        return go_on(base, hosts)
    finally:
        memory.room = real


# ----------------------------------------------------------------------------- the end of a command


def end(
    base: Path, hosts: Sequence[int], monkeypatch: pytest.MonkeyPatch, *claimed: str
) -> list[tuple[str, dict[str, Any]]]:
    """What the agent tells when `hosts` are left. The last of them is the first to begin with the files `claimed`."""
    folder, told, asked = RunFolder(base / "run"), list[tuple[str, dict[str, Any]]](), list[str]()

    def everywhere(task: str, **about: Any) -> list[Any]:
        answers, asked[:] = [], [*asked, task]
        begun = [Path(about["to"]) / name for name in claimed] if asked.count("bring") == 1 else []
        for host in hosts:
            monkeypatch.setattr(memory, "ROOT", base / f"host{host}")
            for copy in begun:
                copy.unlink(missing_ok=True) if host == hosts[-1] else copy.touch()
            answers += leaving.here(folder, task, **about)
        return answers

    leaving.give_back(folder, folder.checkpoints(None), lambda kind, **fields: told.append((kind, fields)), everywhere)
    return told


@pytest.mark.parametrize(
    "left", [(2, 1), *(pytest.param(each, marks=pytest.mark.slow) for each in ((0, 1, 2), (0, 2)))]
)
def test_what_the_machines_have_together_is_moved_to_the_disk(
    left: tuple[int, ...], pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_disk(pool, tmp_path, 3, 2)
    pool.run(3, keep, tmp_path, THREE, [3])
    told = end(tmp_path, left, monkeypatch)
    assert told == [("snapshot_moved", {"step": 3, "path": str(tmp_path / "run/checkpoints/step_3")})]
    assert m.verify(tmp_path / "run/checkpoints/step_3") == []
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == ["step_2", "step_3"]
    assert [*tmp_path.glob("host[" + "".join(map(str, left)) + "]/*")] == []
    assert goes(pool, tmp_path, THREE) == (3, [])


def test_a_file_that_the_first_to_bring_it_has_damaged_is_brought_by_the_other(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which has passed it over before."""
    pool.run(2, keep, tmp_path, TWO, [3])
    damage(place(tmp_path, 1), 3, "__0_0.distcp")
    damage(place(tmp_path, 1), 3, ".metadata")
    ((kind, _),) = end(tmp_path, (0, 1), monkeypatch, "__0_0.distcp", ".metadata")
    assert kind == "snapshot_moved"
    assert goes(pool, tmp_path, TWO) == (3, [])


def test_what_no_machine_that_is_left_has_is_told_and_the_memory_given_back(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.run(3, keep, tmp_path, THREE, [3])
    ((kind, fields),) = end(tmp_path, (0,), monkeypatch)
    assert (kind, fields["step"]) == ("snapshot_failed", 3)
    assert "the snapshot of step 3 is damaged: __1_0.distcp: No such file" in fields["message"]
    assert [*(tmp_path / "run/checkpoints").iterdir()] == []
    assert [*(tmp_path / "host0").iterdir()] == []


def test_where_a_machine_cannot_write_all_keep_what_they_have(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.run(2, keep, tmp_path, TWO, [3])
    (tmp_path / "run/checkpoints").touch()
    ((kind, fields),) = end(tmp_path, TWO, monkeypatch)
    assert kind == "snapshot_failed"
    assert "cannot be moved to" in fields["message"]
    (tmp_path / "run/checkpoints").unlink()
    assert goes(pool, tmp_path, TWO) == (3, [])
