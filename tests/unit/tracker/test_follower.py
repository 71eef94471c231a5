"""A tracker that is down, hangs or fails never touches the run, and what it missed arrives once, later."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.mlflow_server import Server
from tests.unit.conftest import until
from tests.unit.tracker.conftest import info, losses, seen, write
from trainkit.errors import Problem
from trainkit.protocols import RunInfo
from trainkit.runfolder import RunFolder, truncate_after
from trainkit.tracker import follower as module
from trainkit.tracker.follower import Follower, reason, sync
from trainkit.tracker.mlflow import Mlflow
from trainkit.tracker.none import NoTracker


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INTERVAL_S", 0.05)
    monkeypatch.setattr(module, "LONGEST_PAUSE_S", 0.2)


def test_a_server_that_goes_down_and_comes_back_has_every_row_once(server: Server, tmp_path: Path) -> None:
    """And with a login in its URI, which stays out of the folder."""
    tracker = Mlflow(uri=server.uri.replace("//", "//me:sesame@"), experiment="unit")
    root, late = tmp_path / "outage", tmp_path / "late"
    server.start()
    follower = Follower(tracker, info(root, lr="0.1"))
    follower.start()
    write(root, 0, 1, 2)
    until(lambda: follower.where is not None and seen(server.uri, root).history == losses(0, 1, 2), "rows 0 to 2")
    server.stop()

    write(root, 3, 4)
    until(lambda: follower.trouble is not None, "the outage is noticed")
    write(root, 5)
    unlucky = Follower(tracker, info(late))  # begins and ends while the server is down
    unlucky.start()
    write(late, 1, 2)
    begin = time.monotonic()
    assert unlucky.finish("FAILED", 30) == 2
    assert time.monotonic() - begin < 30
    assert "Connection" in str(unlucky.trouble)

    server.start()
    until(lambda: follower.trouble is None, "the server is found again")
    write(root, 6)
    assert follower.finish("FINISHED", 30) == 0
    assert follower.trouble is None
    found = seen(server.uri, root)
    assert (found.history, found.status) == (losses(0, 1, 2, 3, 4, 5, 6), "FINISHED")
    assert follower.where is not None
    assert follower.where.startswith(f"{server.uri}/#/experiments/")
    for _ in range(2):  # `trainkit mlflow sync`
        sync(tracker, info(late), "FAILED")
    found = seen(server.uri, late)
    assert (found.history, found.status) == (losses(1, 2), "FAILED")
    assert json.loads((late / "mlflow.json").read_text())["uri"] == server.uri.replace("//", "//(not shown)@")
    assert tracker.held(late) == [1, 2]


def test_the_configuration_is_sent_without_its_secrets(database: str, tmp_path: Path) -> None:
    """While a run goes on, and afterwards; the folder's own can still run."""
    from mlflow import MlflowClient

    tracker = Mlflow(uri=database, experiment="unit")
    for name in ("live", "later"):
        root, about = tmp_path / name, info(tmp_path / name)
        config = RunFolder(root).config
        config.write_text("tracker: {uri: 'http://me:sesame@h'}\nrecipe: {hf_token: sesame, size: 3}\n")
        write(root, 1)
        if name == "live":
            follower = Follower(tracker, about)
            follower.start()
            assert follower.finish("FINISHED", 30) == 0
        else:
            sync(tracker, about, "FINISHED")
        run = json.loads((root / "mlflow.json").read_text())["run_id"]
        sent = Path(MlflowClient(database).download_artifacts(run, "config.yaml", str(tmp_path))).read_text()
        assert sent == "tracker:\n  uri: http://(not shown)@h\nrecipe:\n  hf_token: (not shown)\n  size: 3\n"
        assert "sesame" in config.read_text()


def test_a_fault_is_told_without_a_password() -> None:
    fault = ValueError("cannot reach http://me:sesame@h:1/x")
    assert reason(fault) == "ValueError: cannot reach http://(not shown)@h:1/x"


def test_a_server_that_never_answers_holds_the_end_up_for_a_bounded_time(tmp_path: Path) -> None:
    """It takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        follower = Follower(Mlflow(uri=uri, experiment="unit"), info(tmp_path / "silent"))
        follower.start()
        write(tmp_path / "silent", 1)
        silent.accept()
        write(tmp_path / "silent", 2, 3)  # while the follower waits
        begin = time.monotonic()
        assert follower.finish("FINISHED", 0.5) == 3
        assert time.monotonic() - begin < 5
        assert "no answer" in str(follower.trouble)


def test_a_resumed_run_sends_what_is_new(database: str, tmp_path: Path) -> None:
    """Attempt 1 was killed at step 4; its last checkpoint is of step 2."""
    root, tracker = tmp_path / "resumed", Mlflow(uri=database, experiment="unit")
    write_first = info(root)
    write(root, 0, 1, 2, 3, 4)
    first = Follower(tracker, write_first)
    first.start()
    assert first.finish("KILLED", 30) == 0
    second = Follower(tracker, info(root, attempt=2))
    second.start()
    until(lambda: second.where is not None, "the run is opened")
    truncate_after(RunFolder(root).metrics, 2)
    write(root, 3, 4, 5, attempt=2)
    assert second.finish("FINISHED", 30) == 0
    assert seen(database, root).history == losses(0, 1, 2, 3, 4, 5)


# ------------------------------------------------------------------------------- faults of other trackers


@dataclass
class Faulty:
    """A tracker whose calls raise what is in `faults`, one after the other; then it works."""

    faults: dict[str, list[Exception]] = field(default_factory=dict)
    got: list[int] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)

    def _maybe(self, call: str) -> None:
        if self.faults.get(call):
            raise self.faults[call].pop(0)

    def problems(self) -> Sequence[Problem]:
        return ()

    def open(self, info: RunInfo) -> Faulty:
        self._maybe("open")
        return self

    def log(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._maybe("log")
        self.got += [row["step"] for row in rows]

    def tell(self, events: Sequence[Mapping[str, Any]]) -> None:
        pass

    def measure(self, samples: Sequence[Mapping[str, Any]]) -> None:
        pass

    def artifact(self, name: str, text: str) -> None:
        self._maybe("artifact")

    def close(self, status: str) -> None:
        self._maybe("close")
        self.closed.append(status)

    def abandon(self) -> None:
        pass

    def where(self) -> str:
        return "here"


@pytest.mark.parametrize("call", ["open", "artifact", "log"])
@pytest.mark.parametrize("fault", [TimeoutError(), ValueError("two\nlines"), KeyError("x")], ids=repr)
def test_any_fault_is_told_and_tried_again(call: str, fault: Exception, tmp_path: Path) -> None:
    tracker = Faulty({call: [fault] * 3})
    follower = Follower(tracker, info(tmp_path / "run"))
    follower.start()
    write(tmp_path / "run", 1, 2)
    until(lambda: follower.trouble is not None or tracker.got != [], "the fault is told")
    until(lambda: tracker.got == [1, 2], "the rows arrive")
    write(tmp_path / "run", 3)
    assert follower.finish("FINISHED", 10) == 0
    assert (tracker.got, tracker.closed) == ([1, 2, 3], ["FINISHED"])


def test_an_end_that_did_not_arrive_is_told_although_all_rows_did(tmp_path: Path) -> None:
    follower = Follower(Faulty({"close": [ConnectionError("gone")]}), info(tmp_path / "run"))
    follower.start()
    write(tmp_path / "run", 1)
    assert follower.finish("FINISHED", 10) == 0
    assert follower.trouble == "ConnectionError: gone"


def test_without_a_tracker_nothing_is_left_over(tmp_path: Path) -> None:
    follower = Follower(NoTracker(), info(tmp_path / "run"))
    follower.start()
    write(tmp_path / "run", 1, 2)
    assert follower.finish("FINISHED", 10) == 0
    assert (follower.trouble, follower.where) == (None, None)
