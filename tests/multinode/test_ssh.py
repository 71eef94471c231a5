"""launcher=ssh: from one machine a run is started on two, through a real sshd on each."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.command import TRAINKIT, events, trainkit
from tests.multinode.hosts import Hosts
from tests.multinode.runs import WORDS, reach, same_run, whole

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/bin:/sbin")
SERVER = """\
Port 22
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PidFile none
StrictModes no
PermitRootLogin prohibit-password
UsePAM no
"""
CLIENT = "-o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
pytestmark = pytest.mark.skipif(SSHD is None, reason="there is no sshd: apt-get install openssh-server")


@pytest.fixture
def served(hosts: Hosts, tmp_path: Path) -> tuple[str, ...]:
    """An sshd on both; the words with which this user reaches them."""
    for name in ("host_key", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True)
    (tmp_path / "sshd").write_text(SERVER.format(folder=tmp_path))
    Path("/run/sshd").mkdir(exist_ok=True)
    for name in hosts.names:
        hosts.run(name, tmp_path, str(SSHD), "-f", str(tmp_path / "sshd"), "-D", "-e")
    return ("launcher=ssh", "launcher.hosts=[a,b]", f"launcher.ssh=ssh -i {tmp_path}/key {CLIENT}", "launcher.lost_s=5")


@pytest.mark.slow
def test_a_run_is_the_same_through_ssh(
    hosts: Hosts, served: tuple[str, ...], undisturbed: Path, tmp_path: Path
) -> None:
    """No list of processes shows the secret."""
    command = hosts.run("a", tmp_path, *TRAINKIT, *WORDS, *served)
    reach(tmp_path / "run", 20)
    shown = subprocess.run(["ps", "-eww", "-o", "args"], capture_output=True, text=True).stdout
    assert "exec env" in shown  # ssh's own words, with what goes along
    assert "TRAINKIT_KEEPER_TOKEN=" not in shown
    assert command.wait() == 0, command.said
    same_run(tmp_path / "run", undisturbed)
    assert events(tmp_path / "run", "start")[0]["ranks"] == 2


@pytest.mark.slow
@pytest.mark.drill
def test_a_machine_is_lost(hosts: Hosts, served: tuple[str, ...], tmp_path: Path) -> None:
    command = hosts.run("a", tmp_path, *TRAINKIT, *WORDS, *served, "launcher.nodes=1")
    reach(tmp_path / "run", 60)
    hosts.off("b")
    assert command.wait() == 0, command.said
    whole(tmp_path / "run")
    assert [start["ranks"] for start in events(tmp_path / "run", "start")] == [2, 1]
    (failure,) = events(tmp_path / "run", "failure")
    assert (failure["cause"], failure["host"]) == ("lost", "b")


@pytest.mark.slow
def test_a_machine_that_ssh_does_not_reach_is_told_of(hosts: Hosts, served: tuple[str, ...], tmp_path: Path) -> None:
    command = hosts.run("a", tmp_path, *TRAINKIT, *WORDS, *served, "launcher.hosts=[a,nowhere]")
    assert command.wait() == 1
    assert "of 2 tasks called back" in command.said
    assert "Could not resolve hostname nowhere" in (tmp_path / "run/logs/attempt_1/agent.log").read_text()


def test_hosts_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    words = ("launcher.hosts=[a,a]", "launcher.nodes=3", "launcher.ssh=no-such-program")
    wrong = trainkit(tmp_path, *WORDS, "launcher=ssh", *words)
    assert wrong.returncode == 2
    assert "a is there twice" in wrong.stderr
    assert "launcher.nodes=3: launcher.hosts names 2" in wrong.stderr
    assert "there is no program no-such-program" in wrong.stderr
    none = trainkit(tmp_path, *WORDS, "launcher=ssh")
    assert none.returncode == 2
    assert "launcher.hosts" in none.stderr
    assert not (tmp_path / "run").exists()
