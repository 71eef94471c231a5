"""Several machines without a scheduler: what is refused before anything starts, and who leads."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from trainkit.errors import ConfigError, Problem
from trainkit.launcher import _hosts
from trainkit.launcher._address import candidates
from trainkit.launcher._invitation import Invitation
from trainkit.launcher.local import Local
from trainkit.launcher.mpi import Mpi
from trainkit.protocols import Cluster
from trainkit.strategy.ddp import Ddp

DDP = Ddp(bucket_cap_mb=25, timeout_s=60)
ALONE = Local(ranks=2, spares=0, nodes=1, rendezvous=None, head=None, lost_s=45.0, wait_s=600.0)
TWO = replace(ALONE, nodes=2, rendezvous="192.0.2.77:29500")  # an address that documentation only has
MPI = Mpi(ranks="auto", lost_s=45.0, wait_s=600.0)
HERE = (*candidates(alone=False), socket.gethostname())


def problems(launcher: Local | Mpi) -> list[Problem]:
    return [*launcher.problems(launcher.cluster(DDP, "cpu"))]


def test_machines_multiply_the_ranks_and_whole_ones_are_left_out() -> None:
    assert problems(TWO) == []
    cluster = replace(TWO, nodes="1:3").cluster(DDP, "cpu")
    assert (cluster.hosts, cluster.ranks, cluster.fewer) == (3, 6, (2, 4))


@pytest.mark.parametrize(
    ("launcher", "key", "said"),
    [
        (replace(TWO, rendezvous=None), "launcher.rendezvous", "2 machines have to meet somewhere"),
        (replace(TWO, nodes=1), "launcher.rendezvous", "one machine has nobody to meet"),
        (replace(TWO, nodes="3:2"), "launcher.nodes", "3 nodes at least are more than 2 at most"),
        (replace(TWO, rendezvous="192.0.2.77:70000"), "launcher.rendezvous", "there is no port 70000"),
        (replace(TWO, rendezvous="no.such.host.invalid:1"), "launcher.rendezvous", "nobody here knows a host"),
        (replace(TWO, rendezvous="127.0.0.1:29500"), "launcher.rendezvous", "every machine has this address"),
        (replace(TWO, ranks="1:2"), "launcher.ranks", "whole ones are left out"),
        (replace(TWO, spares=1), "launcher.spares", "are kept on one machine only"),
    ],
)
def test_what_keeps_machines_from_meeting_is_refused(launcher: Local, key: str, said: str) -> None:
    (problem,) = problems(launcher)
    assert problem.key == key
    assert said in problem.message
    assert problem.hint


def test_all_of_them_need_one_folder() -> None:
    with pytest.raises(ConfigError, match=r"run\.dir"):
        TWO.visit(["recipe=mine"], TWO.cluster(DDP, "cpu"))


@pytest.mark.parametrize("host", HERE)
def test_the_machine_that_has_the_address_leads(host: str) -> None:
    cluster, words = TWO.cluster(DDP, "cpu"), ["run.dir=run"]
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} cannot be opened here"):
            replace(TWO, rendezvous=f"{host}:{port}").visit(words, cluster)
    here = replace(TWO, rendezvous=f"{host}:{port}")
    assert here.visit(words, cluster) is None
    guest = replace(here, head=False).visit(words, cluster)
    assert guest is not None
    assert (guest.seat.number, guest.places, guest.door) == (None, 2, (host, port))


def test_another_machine_does_not_lead() -> None:
    assert TWO.visit(["run.dir=run"], TWO.cluster(DDP, "cpu")) is not None


def test_a_secret_is_for_its_user_only(tmp_path: Path) -> None:
    told = {"addresses": ["192.0.2.1"], "port": 1, "places": 1, "lease_s": 3.0, "owner": {}, "versions": {}}
    for token, mode in (("secret", 0o600), (None, 0o644)):
        invitation = Invitation(**told, token=token)  # type: ignore[arg-type]
        invitation.write(tmp_path / "invitation")
        assert (tmp_path / "invitation").stat().st_mode & 0o777 == mode
        assert Invitation.read(tmp_path / "invitation") == invitation
    assert Invitation.read(tmp_path / "none") is None


def test_the_tasks_of_mpirun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SIZE": "4", "LOCAL_SIZE": "2", "RANK": "3", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", value)
    monkeypatch.setenv("SLURM_PROCID", "0")  # of the daemon that mpirun has started through srun
    cluster = MPI.cluster(DDP, "cpu")
    assert (cluster.hosts, cluster.ranks, cluster.fewer) == (2, 4, ())
    assert replace(MPI, ranks="2:4").cluster(DDP, "cpu").fewer == (2, 3)
    visit = MPI.visit(["run.dir=run"], cluster)
    assert visit is not None
    assert (visit.seat.number, visit.seat.slot, visit.silent) == (3, 1, True)
    (problem,) = problems(replace(MPI, ranks=2))
    assert problem.message == "mpirun has started 4 task(s)"
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    assert MPI.visit(["run.dir=run"], cluster) is None


def test_a_span_is_read_as_it_is_written() -> None:
    assert (_hosts.span(3), _hosts.span("2:4")) == ((3, 3), (2, 4))
    assert _hosts.several(Cluster(hosts=1, ranks=0, gpus=2, cores=8), (1, 2), 2) == Cluster(
        hosts=2, ranks=4, gpus=4, cores=16, fewer=(2,)
    )
