"""One Slurm cluster for all tests here, brought up with the first of them: 1 second."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.slurm.cluster import PACKAGES, Cluster, missing


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if lacking := missing():
        pytest.skip(f"there is no {', '.join(lacking)} here: apt-get install {PACKAGES}")
    with Cluster(nodes=3, folder=tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture
def cluster(slurm: Cluster) -> Iterator[Cluster]:
    """The cluster, whole and without jobs before and after."""
    yield slurm
    slurm.restore()
