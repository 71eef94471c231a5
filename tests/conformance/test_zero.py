"""What only shows where DeepSpeed does the work: memory, collectives, dropped and skipped steps, frozen and tied
weights, what is left in a process."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.conformance import engines
from tests.conformance.cells import STRATEGIES
from tests.conformance.decoder import DecoderTask
from tests.conformance.engines import on_world
from tests.conformance.pool import Pool
from tests.conformance.training import tensors, train
from tests.unit.strategy.test_engine import TRAINING, share
from trainkit.errors import TrainkitError
from trainkit.protocols import World
from trainkit.strategy._deepspeed import ZeroEngine

ALL = ["zero1", "zero1-offload", "zero2", "zero2-offload", "zero3", "zero3-kept", "zero3-offload"]


engine_of = partial(engines.engine_of, ZeroEngine)


def weights(engine: ZeroEngine) -> list[Tensor]:
    return [w.detach().clone() for w in engine.partitions.weights]


# ------------------------------------------------------------------------------------------------ state


def fresh(world: World, name: str) -> bool:
    """Whether asking for the state of an engine that made no step leaves it as it was, with moments of zero."""
    engine = engine_of(world, name)
    before = weights(engine)
    moments = engine.state_dict()["optimizer"]
    flat = [t for partition in engine.partitions.weights for t in engine.optimizer.state[partition].values()]
    return (
        set(moments) == set(engine.state_dict()["model"])
        and not any(t.any() for t in flat)
        and all(map(torch.equal, before, weights(engine)))
    )


@pytest.mark.parametrize("name", ALL)
def test_state_read_before_the_first_step_is_empty_of_traces(name: str, pool: Pool) -> None:
    assert pool.run(2, on_world, name, fresh) == [True, True]


def written(world: World, name: str) -> list[str]:
    """The names of the tensors of which this rank writes a piece."""
    state = engine_of(world, name).state_dict()["model"]
    return [n for n, t in state.items() if t.__create_write_items__(n, t)]


def test_the_ranks_divide_the_writing(pool: Pool) -> None:
    first, second = (set(names) for names in pool.run(2, on_world, "zero1", written))
    assert first - second and second - first
    assert first | second == set(torch.nn.Module.state_dict(DecoderTask().build_model()))


@pytest.mark.parametrize("name", ["zero2", "zero3", pytest.param("zero3-offload", marks=pytest.mark.slow)])
def test_an_interrupted_run_ends_bitwise_where_an_uninterrupted_one_does(name: str, pool: Pool, tmp_path: Path) -> None:
    options = {"strategy": name, "ema": 0.9, "eval_every": 4, "micro_batch": 6, "task": DecoderTask(dropout=0.2)}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert pool.run(2, train, str(whole), 1, None, options) == ["done"] * 2
    assert pool.run(2, train, str(broken), 1, 7, options) == ["stopped"] * 2
    assert pool.run(2, train, str(broken), 2, None, options) == ["done"] * 2
    ours, theirs = tensors(broken, 20), tensors(whole, 20)
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        assert torch.equal(ours[key], tensor), key


# -------------------------------------------------------------------------------------------- gradients


def after_a_dropped_batch(world: World, name: str) -> tuple[float, float, bool]:
    """The norm of a batch's gradient; and again after another batch was dropped, and whether that moved a weight."""
    engine = engine_of(world, name)
    wanted, dropped = share(4), share(2, 3)
    engine.forward_backward(wanted, 10.0)
    expected = engine.update(0.0).item()
    before = weights(engine)
    engine.forward_backward(dropped, 1.0)
    engine.discard()
    unmoved = all(map(torch.equal, before, weights(engine)))
    engine.forward_backward(wanted, 10.0)
    return expected, engine.update(0.0).item(), unmoved


@pytest.mark.parametrize("name", ALL)
def test_discard_leaves_nothing_of_a_batch(name: str, pool: Pool) -> None:
    for expected, found, unmoved in pool.run(2, on_world, name, after_a_dropped_batch):
        assert found == pytest.approx(expected, rel=1e-6)
        assert expected > 0
        assert unmoved


def after_a_bad_batch(world: World, name: str) -> tuple[float, bool]:
    """The norm of a gradient that is not finite on rank 0, and whether it moved a weight."""
    engine = engine_of(world, name)
    before = weights(engine)
    engine.forward_backward(share(4), float("nan") if world.rank == 0 else 1.0)
    return engine.update(1e-2).item(), all(map(torch.equal, before, weights(engine)))


@pytest.mark.parametrize("name", ["zero1", "zero2", "zero3"])
def test_a_gradient_that_is_not_finite_moves_nothing(name: str, pool: Pool) -> None:
    assert pool.run(2, on_world, name, after_a_bad_batch) == [(float("inf"), True)] * 2


@dataclass(frozen=True, kw_only=True)
class Unused(DecoderTask):
    def build_model(self) -> nn.Module:
        model: Any = super().build_model()
        model.spare = nn.Linear(2, 2)
        return model  # type: ignore[no-any-return]


def refusal(world: World, name: str) -> str:
    engine = engine_of(world, name, replace(TRAINING, task=Unused()))
    with pytest.raises(TrainkitError) as raised:
        engine.forward_backward(share(4, 2), 1.0)
    return str(raised.value)


@pytest.mark.parametrize("name", ["zero1", "zero3"])
def test_a_trained_weight_without_a_gradient_is_refused(name: str, pool: Pool) -> None:
    for message in pool.run(2, on_world, name, refusal):
        assert "spare.weight, spare.bias took no part in the loss" in message


# ------------------------------------------------------------------------------------------ the process


def left_behind() -> list[object]:
    import deepspeed.comm.comm
    from deepspeed.runtime.zero.parameter_offload import FWD_MODULE_STACK
    from deepspeed.utils import groups

    return [
        torch.distributed.is_initialized(),
        deepspeed.comm.comm.cdb is None,
        groups._WORLD_GROUP is None,
        len(FWD_MODULE_STACK),
        nn.functional.linear.__name__,
    ]


def run_and_look(name: str) -> list[object]:
    on_world(name, after_a_dropped_batch)
    return left_behind()


def test_a_closed_world_leaves_nothing_behind(pool: Pool) -> None:
    assert pool.run(2, run_and_look, "zero3") == [[False, True, True, 0, "linear"]] * 2


def test_the_users_file_reaches_deepspeed(pool: Pool) -> None:
    assert pool.run(2, on_world, "zero3", threshold) == [0, 0]
    assert pool.run(2, on_world, "zero3-kept", threshold)[0] > 0


def threshold(world: World, name: str) -> int:
    return int(engine_of(world, name)._wrapped.zero_param_persistence_threshold())


def patience(world: World, name: str) -> set[float]:
    """How long a collective waits, of every group that DeepSpeed uses, in seconds."""
    engine = engine_of(world, name)._wrapped
    of = [engine.data_parallel_group, engine.seq_data_parallel_group, engine.optimizer.dp_process_group]
    return {g._get_backend(torch.device("cpu")).options._timeout.total_seconds() for g in of}


@pytest.mark.parametrize("name", ["zero2", "zero3"])
def test_a_missing_rank_is_waited_for_as_long_as_the_strategy_says(name: str, pool: Pool) -> None:
    assert pool.run(2, on_world, name, patience) == [{STRATEGIES[name].timeout_s}] * 2  # type: ignore[attr-defined]
