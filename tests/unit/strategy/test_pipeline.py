"""What the pipeline strategy refuses before anything starts, and which schedules take how many micro-batches."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conformance.cells import MESH, PIPELINE
from trainkit.parts import ModelShape
from trainkit.protocols import Cluster
from trainkit.strategy._passes import runs, schedule
from trainkit.strategy.mesh import Mesh
from trainkit.strategy.pipeline import Pipeline


def problems(kind: Any, keys: dict[str, Any], ranks: int) -> list[tuple[str, str]]:
    found = kind(**keys).problems(Cluster(hosts=1, ranks=ranks, gpus=0, cores=8))
    return [(p.key, p.message) for p in found]


@pytest.mark.parametrize(
    ("keys", "ranks"),
    [
        ({}, 1),
        ({}, 4),
        ({"stages": 2}, 6),
        ({"schedule": "zero_bubble"}, 2),
        ({"schedule": "interleaved1f1b", "virtual_stages": 3, "cut": [1, 2, 3, 5, 8]}, 2),
        ({"stages": 2, "cut": ["model.layers.4"]}, 4),
    ],
)
def test_what_fits(keys: dict[str, Any], ranks: int) -> None:
    assert problems(Pipeline, PIPELINE | keys, ranks) == []


@pytest.mark.parametrize(
    ("keys", "ranks", "key", "told"),
    [
        ({"stages": 4}, 6, "launcher.ranks", "pipeline 4 x shard auto: it must be a multiple of 4"),
        ({"virtual_stages": 2}, 2, "strategy.virtual_stages", "schedule=1f1b has one stage per rank"),
        ({"schedule": "gpipe", "virtual_stages": 2}, 2, "strategy.virtual_stages", "schedule=gpipe has one"),
        ({"schedule": "interleaved1f1b"}, 2, "strategy.schedule", "interleaves several stages per rank"),
        ({"cut": [3]}, 4, "strategy.cut", "should name 3 blocks: the first of each of the 4 stages but stage 0"),
        ({"stages": 2, "schedule": "zero_bubble"}, 4, "strategy.schedule", "loses gradients of weights"),
        ({"cut": []}, 2, "strategy.cut", "should name 1 blocks"),
    ],
)
def test_what_does_not_fit_is_refused(keys: dict[str, Any], ranks: int, key: str, told: str) -> None:
    ((found, message),) = problems(Pipeline, PIPELINE | keys, ranks)
    assert found == key
    assert told in message


def test_a_mesh_with_a_pipeline_axis_refuses_the_same_and_divided_hidden_states() -> None:
    keys = MESH | {"pipeline": 2, "tensor": 2, "sequence_parallel": True, "loss_parallel": True, "virtual_stages": 2}
    assert [key for key, _ in problems(Mesh, keys, 4)] == [
        "strategy.virtual_stages",
        "strategy.sequence_parallel",
        "strategy.loss_parallel",
    ]
    assert problems(Mesh, MESH | {"pipeline": 2, "tensor": 2}, 8) == []


@given(st.integers(1, 8), st.integers(1, 3), st.integers(1, 20))
def test_every_stage_has_a_layer_or_the_model_is_refused(ranks: int, virtual: int, layers: int) -> None:
    strategy = Pipeline(**PIPELINE | {"schedule": "zero_bubble", "virtual_stages": virtual})
    found = strategy.model_problems(ModelShape(layers=layers, heads=(4,)), ranks)
    assert bool(found) == (layers < ranks * virtual)


class Stub:
    """As much of a stage as torch's schedules look at while they plan."""

    def __init__(self, rank: int, ranks: int, index: int, count: int) -> None:
        self.group_rank, self.group_size, self.stage_index, self.num_stages = rank, ranks, index, count
        self.is_first, self.is_last = index == 0, index == count - 1
        self.submod, self.stage_index_to_group_rank = None, {i: i % ranks for i in range(count)}


@pytest.mark.parametrize(
    ("name", "virtual"), [("gpipe", 1), ("1f1b", 1), ("interleaved1f1b", 2), ("zero_bubble", 1), ("zero_bubble", 2)]
)
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_torch_plans_what_is_said_to_run(name: Any, virtual: int, ranks: int) -> None:
    """And refuses what is not, but for fewer micro-batches than ranks, which interleaved stages may get."""
    count = ranks * virtual
    for micro_batches in range(1, 14):
        stages: list[Any] = [Stub(0, ranks, index, count) for index in range(0, count, ranks)]
        several = name in ("interleaved1f1b", "zero_bubble")
        kind = schedule(name, virtual > 1)
        if runs(name, micro_batches, ranks, count):
            kind(stages if several else stages[0], micro_batches)
        elif micro_batches >= ranks or name == "1f1b":
            with pytest.raises(ValueError, match="icrobatches"):
                kind(stages if several else stages[0], micro_batches)
