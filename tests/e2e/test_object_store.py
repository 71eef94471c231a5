"""checkpoint.dir=s3://...: another machine goes on from the URL alone, and what cannot be used is refused by name."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.command import NOT_TRACKED, curve, done, events, saved, trainkit, weights
from tests.objectstore import BUCKET, Server, serving

RUN = (
    *("recipe=image_classification", "train.device=cpu", "train.eval_every=20", "schedule=constant"),
    *("schedule.warmup=0", "checkpoint.every=10", "run.dir=run", *NOT_TRACKED),
)
URL = f"s3://{BUCKET}/runs/a"
THERE = f"checkpoint.dir={URL}"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.mark.slow
def test_a_run_goes_on_on_another_machine(server: Server, tmp_path: Path) -> None:
    straight, one, two = (tmp_path / name for name in ("straight", "one", "two"))
    for folder in (straight, one, two):
        folder.mkdir()
    done(straight, *RUN, "train.steps=30")
    said = done(one, *RUN, THERE, "train.steps=20", **server.environment)
    assert f"copied step 20: {URL}/step_20 (" in said
    assert sorted(event["step"] for event in events(one / "run", "copy")) == [10, 20]
    shutil.rmtree(one)
    assert "goes on from step 20" in done(two, "validate", *RUN, THERE, "train.steps=30", **server.environment)
    said = done(two, *RUN, THERE, "train.steps=30", **server.environment)
    assert f"fetching {URL}/step_20" in said.splitlines()
    assert [event["step"] for event in events(two / "run", "start")] == [20]
    assert curve(two / "run")[-1] == curve(straight / "run")[-1]
    assert weights(two / "run") == weights(straight / "run")
    assert saved(two / "run") == [20, 30]
    assert "step_30: OK" in done(two, "checkpoint", "verify", "run")  # of the copies here, without the store
    assert "latest" in done(two, "checkpoint", "inspect", "run")
    done(two, "checkpoint", "export", "run", "model")
    assert (two / "model/model.safetensors").is_file()


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("s4://bucket/a", "cannot be used: Protocol not known: s4"),
        ("s3://other/a", "there is no bucket other"),
    ],
)
def test_a_store_that_cannot_be_used_is_refused_before_the_start(
    url: str, told: str, server: Server, tmp_path: Path
) -> None:
    refused = trainkit(tmp_path, *RUN, "train.steps=1", f"checkpoint.dir={url}", **server.environment)
    assert refused.returncode == 2
    assert f"checkpoint.dir={url}: {told}" in refused.stdout + refused.stderr
    assert not (tmp_path / "run").exists()


def test_a_server_that_is_not_there_is_refused_before_the_start(server: Server, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}"
    address = server.environment | {"AWS_ENDPOINT_URL": nobody}
    refused = trainkit(tmp_path, *RUN, "train.steps=1", THERE, **address)
    assert refused.returncode == 2
    assert f"{THERE}: cannot be reached: EndpointConnectionError" in refused.stdout + refused.stderr
    assert not (tmp_path / "run").exists()
