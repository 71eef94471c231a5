"""Two commands that take this machine for two, so that it works without root too."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.e2e.command import TRAINKIT, events, summary
from tests.multinode.hosts import Command
from tests.multinode.runs import WORDS


@pytest.mark.slow
def test_two_commands_make_one_run(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        meet = f"launcher.rendezvous=127.0.0.1:{free.getsockname()[1]}"
    words = [*TRAINKIT, *WORDS, "launcher.nodes=2", meet, "train.epochs=1", "launcher.wait_s=100"]
    guest = Command([*words, "launcher.head=false"], tmp_path, "guest", TRAINKIT_KEEPER_HOST="other")
    lead = Command([*words, "launcher.head=true"], tmp_path, "lead")
    assert (lead.wait(), guest.wait()) == (0, 0), lead.said + guest.said
    run = tmp_path / "run"
    assert (summary(run)["status"], events(run, "start")[0]["ranks"]) == ("done", 2)
    assert f"other keeps ranks for the run in {run}" in guest.said
