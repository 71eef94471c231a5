"""A rank dies and the others stay: the same processes go on with a new one, and it costs the step in flight."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from tests.chaos.faults import until_it_is_back
from tests.chaos.project import WORDS, made
from tests.e2e.command import Running, curve, done, events, last_step, saved, trained

SHORT = (*WORDS, "train.steps=80", "checkpoint.every=null", "launcher.ranks=3")
STRATEGIES = [
    pytest.param("ddp", marks=pytest.mark.slow),
    pytest.param("accelerate", marks=(pytest.mark.slow, pytest.mark.drill)),
]


def killed(running: Running, victim: psutil.Process) -> tuple[int, dict[str, object]]:
    """The step that was made before it was killed, and the `start` event of the attempt that followed."""
    step, before = last_step(running.run), len(events(running.run, "start"))
    victim.kill()
    until_it_is_back(running, before)
    return step, events(running.run, "start")[-1]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_rank_can_be_lost_one_after_the_other(strategy: str, tmp_path: Path) -> None:
    """With loaders too: those of a killed rank outlive it, and hold its connections open."""
    words = (*SHORT, f"strategy={strategy}", "data.workers=1")
    whole, broken = made(tmp_path / "whole"), made(tmp_path / "broken")
    done(whole, *words)
    running = Running(broken, *words)
    for victim, reached in ((0, 10), (1, 30), (2, 50)):
        running.reach(reached)
        _, ranks = running.processes()  # by age: of the first three by rank, and a new one is the last
        stay = {*ranks} - {ranks[0]}
        step, again = killed(running, ranks[0])
        assert step <= again["step"], f"rank {victim} took steps with it"  # type: ignore[operator]
        assert again["given_by"] != victim
        assert stay <= {*running.processes()[1]}
    assert running.wait() == 0, running.said.read_text()
    assert saved(running.run) == [80]
    assert trained(running.run) == trained(whole / "run")
    ours, theirs = curve(running.run), curve(whole / "run")
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    # Not to the bit: three gradients are added up in another order in the first step of an attempt (docs/recovery.md).
    assert [row["loss"] for row in ours if "loss" in row] == pytest.approx(
        [r["loss"] for r in theirs if "loss" in r], 1e-4
    )
    assert done(broken, "audit", "run").count("ok: ") == 4


REPLICAS = [
    ("fsdp", ("replicas=2",)),
    pytest.param("mesh", ("replicas=2", "tensor=2"), marks=pytest.mark.drill),
]


@pytest.mark.slow
def test_ranks_that_do_not_talk_to_the_dead_one_notice_too(tmp_path: Path) -> None:
    """Of four, one does not: it waits for those that have left, whose connections have to close for that."""
    running = Running(made(tmp_path), *SHORT, "strategy=ddp", "launcher.ranks=4")
    running.reach(10)
    _, ranks = running.processes()
    killed(running, ranks[1])
    assert {*ranks} - {ranks[1]} <= {*running.processes()[1]}
    assert running.wait() == 0, running.said.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "axes"), REPLICAS)
def test_replicas_of_a_divided_model_stay(strategy: str, axes: tuple[str, ...], tmp_path: Path) -> None:
    """One rank of each copy dies, one after the other: each part of the state is still there once."""
    words = (*SHORT, f"strategy={strategy}", *(f"strategy.{axis}" for axis in axes), "launcher.ranks=4")
    whole, broken = made(tmp_path / "whole"), made(tmp_path / "broken")
    done(whole, *words)
    running = Running(broken, *words)
    for reached in (10, 30):
        running.reach(reached)
        _, ranks = running.processes()
        step, again = killed(running, ranks[1])
        assert step <= again["step"]  # type: ignore[operator]
        assert again["given_by"] is not None
        assert {*ranks} - {ranks[1]} <= {*running.processes()[1]}
    assert running.wait() == 0, running.said.read_text()
    assert saved(running.run) == [80]
    assert trained(running.run) == trained(whole / "run")
    ours, theirs = ([row["loss"] for row in curve(folder) if "loss" in row] for folder in (running.run, whole / "run"))
    assert ours == theirs
    assert done(broken, "audit", "run").count("ok: ") == 4


@pytest.mark.slow
@pytest.mark.drill
def test_parts_of_which_one_is_lost_are_not_gone_on_from(tmp_path: Path) -> None:
    """Both ranks with the second half of the weights die."""
    words = (*SHORT, "strategy=fsdp", "strategy.replicas=2", "launcher.ranks=4", "checkpoint.every=10")
    running = Running(made(tmp_path), *words)
    running.reach(15)
    _, ranks = running.processes()
    for rank in ranks:
        rank.suspend()
    before = len(events(running.run, "start"))
    for rank in (ranks[1], ranks[3]):
        rank.kill()
    for rank in (ranks[0], ranks[2]):
        rank.resume()
    until_it_is_back(running, before)
    again = events(running.run, "start")[-1]
    assert (again["step"], again["given_by"]) == (10, None)
    assert running.wait() == 0, running.said.read_text()
    assert done(tmp_path, "audit", "run").count("ok: ") == 4


@pytest.mark.slow
def test_a_spare_takes_the_place(tmp_path: Path) -> None:
    """It was there before the fault, and another one takes its place as the spare."""
    running = Running(made(tmp_path), *SHORT, "strategy=ddp", "launcher.spares=1")
    running.reach(10)
    _, (first, second, third, spare) = running.processes()
    killed(running, second)
    _, others = running.processes()
    assert others[:3] == [first, third, spare]
    assert len(others) == 4
    assert running.wait() == 0, running.said.read_text()
    assert running.left_behind() == []


@pytest.mark.slow
def test_a_spare_that_has_died_is_not_missed(tmp_path: Path) -> None:
    running = Running(made(tmp_path), *SHORT, "strategy=ddp", "launcher.spares=1")
    running.reach(10)
    _, ranks = running.processes()
    ranks[3].kill()
    killed(running, ranks[1])
    assert running.wait() == 0, running.said.read_text()
    assert len(events(running.run, "failure")) == 1


@pytest.mark.slow
def test_horovod_is_started_anew_and_loses_no_step(tmp_path: Path) -> None:
    """It cannot be left when rank 0 is gone, so the ranks that hold the newest step save it and go."""
    words = (*SHORT, "strategy=horovod")
    running = Running(made(tmp_path), *words)
    running.reach(10)
    _, ranks = running.processes()
    step, again = killed(running, ranks[0])
    assert step <= again["step"]  # type: ignore[operator]
    assert again["given_by"] is None
    assert running.wait() == 0, running.said.read_text()
    assert [event["rescued_by"] for event in events(running.run, "save") if "rescued_by" in event] != []
    assert done(tmp_path, "audit", "run").count("ok: ") == 4
