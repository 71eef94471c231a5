"""What can be known of Horovod before the start."""

from __future__ import annotations

import importlib.util

import pytest

from trainkit.protocols import Cluster
from trainkit.strategy._horovod import Place, places
from trainkit.strategy.horovod import Horovod

HOROVOD = Horovod(fusion_mb=64, timeout_s=60)


def test_horovod_that_is_not_installed_is_a_problem_that_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(hosts=1, ranks=2, gpus=0, cores=2)
    assert HOROVOD.problems(cluster) == ()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (problem,) = HOROVOD.problems(cluster)
    assert (problem.key, problem.value) == ("strategy", "horovod")
    assert "make horovod" in problem.hint


def test_auto_means_one_rank_per_gpu() -> None:
    assert [HOROVOD.ranks(Cluster(hosts=1, ranks=0, gpus=gpus, cores=2)) for gpus in (0, 1, 8)] == [1, 1, 8]


def test_places_on_machines_of_different_size() -> None:
    """Ranks 0 to 2 are on one machine, 3 and 4 on another."""
    found = places([(0, 0), (0, 1), (0, 2), (3, 0), (3, 1)])
    assert found[0] == Place(0, 5, 0, 0, 3, 0, 2)
    assert found[2] == Place(2, 5, 0, 2, 3, 0, 1)  # the other machine has no third rank
    assert found[4] == Place(4, 5, 3, 1, 2, 1, 2)
