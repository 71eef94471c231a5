"""One Ray cluster for all tests here, brought up with the first of them: 10 seconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.ray.cluster import Cluster


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
