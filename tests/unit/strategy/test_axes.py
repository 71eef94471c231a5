"""The arithmetic of a mesh, and what strategies on it refuse before anything starts."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conformance.cells import FSDP, MESH, TENSOR
from trainkit.parts import ModelShape
from trainkit.preflight import Divides
from trainkit.protocols import Cluster, Strategy
from trainkit.strategy._axes import Axes
from trainkit.strategy._meshed import Staging
from trainkit.strategy.fsdp import Fsdp
from trainkit.strategy.mesh import Mesh
from trainkit.strategy.tensor import Tensor

SIZE = st.integers(1, 6)
AXES = st.builds(Axes, pipeline=SIZE, replicas=SIZE, shard=st.one_of(SIZE, st.just("auto")), tensor=SIZE)
RANKS = st.integers(1, 5000)


@given(AXES, RANKS)
def test_a_filled_mesh_has_every_rank_once(axes: Axes, ranks: int) -> None:
    if axes.fits(ranks):
        filled = axes.fill(ranks)
        assert prod(filled.sizes().values()) == ranks
        assert filled.data * filled.pipeline * filled.tensor == ranks
        assert (filled.pipeline, filled.replicas, filled.tensor) == (axes.pipeline, axes.replicas, axes.tensor)
        assert axes.shard in ("auto", filled.shard)
    else:
        with pytest.raises(ValueError, match=f"{ranks} ranks"):
            axes.fill(ranks)


@given(AXES, RANKS)
def test_the_nearest_number_of_ranks_fits_and_there_is_none_nearer(axes: Axes, ranks: int) -> None:
    near = axes.nearest(ranks)
    assert axes.fits(near)
    if axes.shard == "auto":
        assert not any(axes.fits(n) for n in range(near + 1, ranks + 1))
        assert near <= ranks or near == axes.unit


@given(AXES, RANKS)
def test_a_misfit_is_told_with_ranks_that_fit(axes: Axes, ranks: int) -> None:
    problems = axes.problems(ranks)
    assert bool(problems) == (not axes.fits(ranks))
    for problem in problems:
        assert (problem.key, problem.value) == ("launcher.ranks", ranks)
        told = problem.hint.removeprefix("set launcher.ranks=").split(",")[0]
        assert all(axes.fits(int(n)) for n in told.split(" or "))


@given(SIZE, st.integers(1, 40), st.lists(st.integers(1, 64), min_size=1, max_size=2))
def test_heads_and_layers_divide_or_are_refused(size: int, layers: int, heads: list[int]) -> None:
    shape = ModelShape(layers=layers, heads=tuple(heads))
    problems = [*Axes(tensor=size).model_problems(shape), *Staging().model_problems(shape, size)]
    keys = [str(p.value).split()[0] for p in problems]
    assert ("tensor" in keys) == any(n % size for n in heads)
    assert ("pipeline" in keys) == (layers < size)


def cluster(ranks: int, gpus: int = 0) -> Cluster:
    return Cluster(hosts=1, ranks=ranks, gpus=gpus, cores=8)


def make(kind: Any, defaults: dict[str, Any], **keys: Any) -> Any:
    return kind(**defaults | keys)


@pytest.mark.parametrize(
    ("strategy", "ranks", "dp"),
    [
        (make(Fsdp, FSDP), 3, 3),
        (make(Fsdp, FSDP, replicas=2), 8, 8),
        (make(Tensor, TENSOR), 4, 1),
        (make(Tensor, TENSOR, size=4), 4, 1),
        (make(Mesh, MESH, replicas=2, tensor=2), 16, 8),
        (make(Mesh, MESH, shard=2, tensor=2), 4, 2),
    ],
)
def test_what_fits(strategy: Strategy, ranks: int, dp: int) -> None:
    assert not strategy.problems(cluster(ranks))
    assert strategy.dp_size(ranks) == dp


@pytest.mark.parametrize(
    ("strategy", "ranks", "message"),
    [
        (make(Fsdp, FSDP, replicas=2), 3, "replicas 2 x shard auto: it must be a multiple of 2"),
        (make(Tensor, TENSOR, size=4), 2, "tensor 4: it has 4 ranks"),
        (make(Mesh, MESH, replicas=2, tensor=2), 6, "replicas 2 x shard auto x tensor 2: it must be a multiple of 4"),
        (make(Mesh, MESH, shard=2, tensor=2), 8, "shard 2 x tensor 2: it has 4 ranks"),
    ],
)
def test_ranks_that_do_not_fit_are_refused(strategy: Strategy, ranks: int, message: str) -> None:
    (problem,) = strategy.problems(cluster(ranks))
    assert (problem.key, problem.value) == ("launcher.ranks", ranks)
    assert message in problem.message
    assert strategy.dp_size(ranks) >= 1  # asked by other checks of the same configuration, which must not fail


@pytest.mark.parametrize(("kind", "gpus", "ranks"), [("fsdp", 8, 8), ("replicas", 7, 6), ("tensor", 0, 1)])
def test_auto_takes_as_many_gpus_as_fit(kind: str, gpus: int, ranks: int) -> None:
    strategies: dict[str, Strategy] = {
        "fsdp": make(Fsdp, FSDP),
        "replicas": make(Fsdp, FSDP, replicas=2),
        "tensor": make(Tensor, TENSOR),
    }
    assert strategies[kind].ranks(cluster(0, gpus)) == ranks


def test_a_strategy_refuses_a_model_whose_heads_it_cannot_divide() -> None:
    strategy = make(Tensor, TENSOR)
    assert isinstance(strategy, Divides)
    (problem,) = strategy.model_problems(ModelShape(layers=2, heads=(9, 3)), 2)
    assert "9 and 3 attention heads" in problem.message
    assert problem.hint == "sizes that fit: 1, 3"


def test_a_sequence_that_no_plan_divides_is_refused_before_launch() -> None:
    whole = ModelShape(layers=2, heads=(4,), sequence_parallel=False)
    plain, divided = make(Tensor, TENSOR), make(Tensor, TENSOR, sequence_parallel=True)
    assert isinstance(plain, Divides) and isinstance(divided, Divides)
    (problem,) = divided.model_problems(whole, 2)
    assert (problem.key, problem.value) == ("strategy.sequence_parallel", True)
    assert not [*plain.model_problems(whole, 2), *divided.model_problems(whole, 1)]
    assert not divided.model_problems(replace(whole, sequence_parallel=True), 2)


def test_axes_are_written_as_they_are_asked_for() -> None:
    shard: Literal["auto"] = "auto"
    assert str(Axes(replicas=2, shard=shard, tensor=4)) == "replicas 2 x shard auto x tensor 4"
    assert str(Axes()) == "of one rank"
