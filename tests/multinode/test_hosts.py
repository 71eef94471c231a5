"""launcher=local on two machines without a scheduler: the same command on each."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.e2e.command import events, last_step
from tests.multinode.hosts import Hosts, until
from tests.multinode.runs import MEET, TWO, begin, reach, same_run, whole

ELASTIC = (*MEET, "launcher.nodes=1:2")
LONG = ("train.epochs=400",)


@pytest.mark.slow
def test_a_run_is_the_same_on_two_machines(hosts: Hosts, undisturbed: Path, tmp_path: Path) -> None:
    """The one that does not lead may be there first. Others are not taken: with another secret, with another command,
    and where the run folder is another one."""
    guest = begin(hosts, "b", tmp_path, *TWO)
    guest.says("waiting for the host that leads the run")
    lead = begin(hosts, "a", tmp_path, *TWO)
    assert (lead.wait(), guest.wait()) == (0, 0), lead.said + guest.said
    same_run(tmp_path / "run", undisturbed)
    assert events(tmp_path / "run", "start")[0]["ranks"] == 2
    assert f"led at {hosts.addresses['a']}:29500" in guest.said
    assert guest.said.endswith(f"the run in {tmp_path}/run: done\n")
    assert not (tmp_path / "run/logs/invitation.json").exists()
    again = begin(hosts, "b", tmp_path, *TWO)
    assert again.wait() == 0
    assert "this run is done" in again.said


@pytest.mark.slow
def test_who_differs_is_refused_by_name(hosts: Hosts, tmp_path: Path) -> None:
    lead = begin(hosts, "a", tmp_path, *TWO, TRAINKIT_TOKEN="mine")
    invitation = tmp_path / "run/logs/invitation.json"
    until(invitation.exists, "it waits for the other machine")
    assert "mine" not in invitation.read_text()
    other = begin(hosts, "b", tmp_path, *TWO, "optimizer.lr=0.5", TRAINKIT_TOKEN="mine")
    assert other.wait() == 2
    assert "optimizer.lr=0.5: is 0.003 on the host that leads the run" in other.said
    guessed = begin(hosts, "b", tmp_path, *TWO, TRAINKIT_TOKEN="guessed")
    assert guessed.wait() == 2
    assert "TRAINKIT_TOKEN is another one on the host that leads the run" in guessed.said
    none = begin(hosts, "b", tmp_path, *TWO)
    assert none.wait() == 2
    assert "has TRAINKIT_TOKEN set, and this one has not" in none.said
    elsewhere = begin(hosts, "b", tmp_path, *TWO, "launcher.wait_s=4", f"run.dir={tmp_path}/elsewhere")
    assert elsewhere.wait() == 2
    assert "has not written its invitation to this folder" in elsewhere.said
    assert not (tmp_path / "elsewhere").exists()
    lead.send(signal.SIGTERM)  # it has gone on waiting
    assert lead.wait() == 75


@pytest.mark.slow
def test_a_machine_is_lost_and_comes_back(hosts: Hosts, tmp_path: Path) -> None:
    lead = begin(hosts, "a", tmp_path, *ELASTIC, *LONG)
    begin(hosts, "b", tmp_path, *ELASTIC, *LONG)
    run = tmp_path / "run"
    reach(run, 60)
    hosts.off("b")
    until(lambda: len(events(run, "start")) == 2, f"it goes on without: {lead.said}", 60)
    hosts.on("b")
    back = begin(hosts, "b", tmp_path, *ELASTIC, *LONG)
    until(lambda: len(events(run, "start")) == 3, f"it goes on with it: {lead.said}{back.said}", 60)
    reach(run, events(run, "start")[-1]["step"] + 50)
    (run / "STOP").touch()
    assert (lead.wait(), back.wait()) == (75, 75)
    assert [start["ranks"] for start in events(run, "start")] == [2, 1, 2]
    (failure,) = events(run, "failure")
    assert (failure["cause"], failure["host"]) == ("lost", "b")
    steps = last_step(run) + 20
    shorter = ("train.epochs=null", f"train.steps={steps}")
    rest = [begin(hosts, name, tmp_path, *ELASTIC, *shorter) for name in ("a", "b")]
    assert [command.wait() for command in rest] == [0, 0]
    whole(run)


@pytest.mark.drill
@pytest.mark.slow
def test_the_machine_that_leads_is_lost(hosts: Hosts, undisturbed: Path, tmp_path: Path) -> None:
    """The other one waits; the same command on the first goes on."""
    begin(hosts, "a", tmp_path, *TWO)
    guest = begin(hosts, "b", tmp_path, *TWO)
    reach(tmp_path / "run", 60)
    hosts.off("a")
    guest.says("the host that leads the run is gone; waiting for it")
    hosts.on("a")
    lead = begin(hosts, "a", tmp_path, *TWO)
    assert (lead.wait(), guest.wait()) == (0, 0), lead.said + guest.said
    same_run(tmp_path / "run", undisturbed)


@pytest.mark.slow
@pytest.mark.drill
def test_a_cable_is_cut_and_healed(hosts: Hosts, tmp_path: Path) -> None:
    """The one that was cut off ends its ranks by itself, and is taken in again."""
    lead = begin(hosts, "a", tmp_path, *ELASTIC, *LONG)
    guest = begin(hosts, "b", tmp_path, *ELASTIC, *LONG)
    run = tmp_path / "run"
    reach(run, 60)
    hosts.cut("b")
    until(lambda: len(events(run, "start")) == 2, f"it goes on without: {lead.said}", 60)
    hosts.heal("b")
    until(lambda: len(events(run, "start")) == 3, f"it goes on with it: {lead.said}{guest.said}", 60)
    (run / "STOP").touch()
    assert (lead.wait(), guest.wait()) == (75, 75)


@pytest.mark.drill
@pytest.mark.slow
def test_either_may_be_asked_to_stop(hosts: Hosts, tmp_path: Path) -> None:
    lead = begin(hosts, "a", tmp_path, *TWO, *LONG)
    guest = begin(hosts, "b", tmp_path, *TWO, *LONG)
    reach(tmp_path / "run", 20)
    guest.send(signal.SIGINT)
    assert (lead.wait(), guest.wait()) == (75, 75), lead.said + guest.said
    assert len(events(tmp_path / "run", "stop")) == 1
