"""Copies in an S3 server over HTTP, which is away for a while in the middle of a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from s3fs import S3FileSystem

from tests.conformance.training import curve
from tests.objectstore import BUCKET, Server, serving
from tests.unit.checkpoint.runs import events, run, same, wait
from trainkit.checkpoint import reach
from trainkit.checkpoint.remote import Remote, whole
from trainkit.errors import ConfigError
from trainkit.resilience.stop import StopFlag

URL = f"s3://{BUCKET}/runs/a"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    S3FileSystem.clear_instance_cache()  # another test's server had another address
    with serving() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server
    S3FileSystem.clear_instance_cache()


def test_the_server_is_away_for_a_while_and_another_machine_goes_on(server: Server, tmp_path: Path) -> None:
    """It loses all that it had, and the run trains on. What it lacks comes back with the next checkpoint."""
    straight, first, second = (tmp_path / name for name in ("straight", "first", "second"))
    assert run(straight, None) == "done"

    def disturb(step: int, flag: StopFlag) -> None:
        if step == 6:
            wait(lambda: [event["step"] for event in events(first, "copy")] == [4])
            server.stop()
        elif step == 10:
            wait(lambda: bool(events(first, "copy_failed")))
            server.start()
        elif step >= 11:
            flag.raised = True

    assert run(first, URL, at=disturb) == "stopped"
    failed = events(first, "copy_failed")[0]
    assert (failed["step"], failed["path"]) == (None, URL)  # it does not even tell what it lacks
    assert "Could not connect" in failed["message"]
    assert sorted(event["step"] for event in events(first, "copy")) == [4, 8, 11]
    assert {"path": f"{URL}/step_11"}.items() <= events(first, "copy")[1].items()  # the newest first
    assert same(curve(first)) == same(curve(straight))[:11]
    assert run(second, URL, attempt=2) == "done"
    assert [event["step"] for event in events(second, "start")] == [11]
    exported = [root / "model/model.safetensors" for root in (second, straight)]
    assert exported[0].read_bytes() == exported[1].read_bytes()
    assert whole(Remote(URL).found()) == [11, 12]


def test_before_the_start_a_bucket_that_is_not_there_or_cannot_be_reached_is_refused(server: Server) -> None:
    assert reach.newest(URL) is None
    with pytest.raises(ConfigError, match=r"checkpoint\.dir=s3://other/a: there is no bucket other\s+make it first"):
        reach.newest("s3://other/a")
    server.stop()
    with pytest.raises(ConfigError, match="cannot be reached: EndpointConnectionError"):
        reach.newest(URL)
