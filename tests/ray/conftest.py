"""One Ray cluster for all tests here, brought up with the first of them: 10 seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.command import Running
from tests.ray.cluster import Begin, Cluster


@pytest.fixture(scope="session")
def ray_nodes() -> Iterator[Cluster]:
    pytest.importorskip("ray", reason="pip install 'trainkit[ray]'")
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(ray_nodes: Cluster) -> Iterator[Cluster]:
    """The cluster, with its two nodes before and after."""
    yield ray_nodes
    ray_nodes.restore()


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Starts a command in `tmp_path`; none outlives the test."""
    begun: list[Running] = []

    def start(*words: str) -> Running:
        begun.append(Running(tmp_path, *words))
        return begun[-1]

    yield start
    for running in begun:
        running.front.kill()  # the rest ends with it
        running.front.wait()
