"""Each check against something that is as it should be, and something that is not."""

from __future__ import annotations

import resource
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.unit.conftest import write
from trainkit.cli.doctor import disk, machine, services
from trainkit.cli.doctor.collective import meet
from trainkit.cli.main import main

Capture = pytest.CaptureFixture[str]
GIB = 2**30


def test_this_machine_has_what_the_tests_run_on() -> None:
    found = {check.what: check for check in machine.checks()}
    assert found["Python"].level == found["torch"].level == "ok"
    assert {"memory", "shared memory", "open files", "processes"} <= found.keys()


@pytest.mark.parametrize(
    ("free", "container", "level", "told"),
    [
        (8 * GIB, None, "ok", "8.0 GiB free"),
        (8 * GIB, GIB // 2, "warning", "512.0 MiB free left to this container"),
        (GIB // 8, 8 * GIB, "fault", "128.0 MiB free"),
    ],
)
def test_memory(free: int, container: int | None, level: str, told: str) -> None:
    check = machine.memory(free, container)
    assert (check.level, check.found) == (level, told)
    assert (check.remedy == "") == (level == "ok")


def test_a_container_has_a_limit_of_its_own(tmp_path: Path) -> None:
    assert machine.container_left(tmp_path) is None
    write(tmp_path / "memory.current", "300\n")
    write(tmp_path / "memory.max", "1000\n")
    assert machine.container_left(tmp_path) == 700
    write(tmp_path / "memory.max", "max\n")
    assert machine.container_left(tmp_path) is None


def test_a_low_limit_is_told_with_how_to_raise_it() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        check = machine.limit("open files", resource.RLIMIT_NOFILE, machine.FILES, "ulimit -n")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert check.level == "warning" and "at most 1024" in check.found and check.remedy == "ulimit -n 4096"


def test_the_disk_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    found = {check.what: check for check in disk.checks(tmp_path)}
    assert set(found) == {"disk", "disk speed", "fsync", "locks", "clock"}
    assert found["locks"].level == found["clock"].level == "ok"
    assert [*tmp_path.iterdir()] == []


def test_a_disk_that_cannot_be_written_is_a_fault() -> None:
    assert [check.level for check in disk.checks(Path("/proc"))][-1] == "fault"


@pytest.mark.parametrize(("seconds", "level"), [(0.3, "ok"), (-5.0, "warning"), (120.0, "fault")])
def test_the_clock_of_a_shared_disk(seconds: float, level: str) -> None:
    assert disk.skew(seconds).level == level


@pytest.fixture
def server() -> Iterator[str]:
    """A tracker that wants a login."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503 if self.path.startswith("/down") else 401)
            self.end_headers()

        def log_message(self, *words: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as here:
        threading.Thread(target=here.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{here.server_port}"
        here.shutdown()


def test_the_tracker(server: str) -> None:
    assert services.tracker(None).level == services.tracker("sqlite:///a.db").level == "ok"
    assert services.tracker(server).found == f"{server} answers (401)"
    assert services.tracker(f"{server}/down").level == "warning"
    gone = services.tracker("http://me:sesame@127.0.0.1:1")
    assert gone.level == "warning" and "cannot be reached" in gone.found and "sesame" not in gone.found


def test_slurm_that_does_not_answer_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert services.slurm().level == "ok"
    for text, level in (("echo 'Slurmctld(primary) at n is UP'", "ok"), ("echo no >&2; exit 1", "warning")):
        write(tmp_path / "scontrol", f"#!/bin/sh\n{text}\n")
        (tmp_path / "scontrol").chmod(0o755)
        assert services.slurm().level == level


def test_what_is_typed_wrong(capsys: Capture) -> None:
    for words, told in {("nowhere",): "there is no folder", ("a", "b"): "the command is: doctor"}.items():
        assert main(["doctor", *words]) == 2
        assert told in capsys.readouterr().err


@pytest.mark.slow
def test_two_ranks_that_cannot_meet_are_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    assert meet("gloo", 2).level == "ok"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nowhere0")
    assert main(["doctor", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "gloo            FAULT: 2 ranks could not add numbers up" in out
    assert "-> the interface of this machine's host name" in out
    assert "faults 1, " in out
