"""Horovod and Accelerate on real ranks: interrupted runs, one synchronisation per global batch, and what happens when
the ranks do not find or lose each other."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.conformance.decoder import Decoder, DecoderTask
from tests.conformance.pool import Pool
from tests.conformance.settings import STRATEGIES, make
from tests.conformance.training import curve, tensors, train, trained_ids
from trainkit import main
from trainkit.errors import TrainkitError
from trainkit.protocols import Batch
from trainkit.strategy._spmd import SpmdEngine

BOTH = ("horovod", "accelerate")


@pytest.mark.parametrize("strategy", BOTH)
def test_an_interrupted_run_ends_bitwise_where_an_uninterrupted_one_does(
    strategy: str, pool: Pool, tmp_path: Path
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    options = {"strategy": strategy, "ema": 0.9, "task": DecoderTask(dropout=0.2), "eval_every": 4}
    pool.run(2, train, str(whole), 1, None, options)
    assert pool.run(2, train, str(broken), 1, 19, options) == ["stopped"] * 2
    assert pool.run(2, train, str(broken), 2, None, options) == ["done"] * 2
    ours, theirs = tensors(broken, 20), tensors(whole, 20)
    assert [n for n in theirs if not torch.equal(ours[n], theirs[n])] == []
    assert trained_ids(broken) == trained_ids(whole)
    assert [r.get("eval_loss") for r in curve(broken)] == [r.get("eval_loss") for r in curve(whole)]


# --------------------------------------------------------------------- one synchronisation per global batch


def engine_of(strategy: str, **options: Any) -> tuple[Any, Any]:
    """World and engine of this rank."""
    settings = make("", strategy, **options)
    world = settings.strategy.connect("cpu")
    engine = settings.strategy.build(main.training(settings), world)
    if not isinstance(engine, SpmdEngine):
        raise TypeError(engine)
    return world, engine


def share_of(world: Any, micro_batch: int) -> tuple[list[Batch], float]:
    """This rank's part of samples 0 to 11, and the weight of all of them."""
    source = DecoderTask().build_data().train
    mine = range(world.dp_rank * 6, world.dp_rank * 6 + 6)
    share = [source.fetch(mine[i : i + micro_batch]) for i in range(0, 6, micro_batch)]
    return share, source.fetch(range(12)).weight


def discarded(strategy: str) -> bool:
    """Whether a discarded global batch leaves neither a trace in the weights nor a gradient on its way."""
    world, engine = engine_of(strategy)
    before = [p.detach().clone() for p in engine.parameters]
    engine.forward_backward(*share_of(world, 2))
    engine.discard()
    unchanged = all(torch.equal(p, b) for p, b in zip(engine.parameters, before, strict=True))
    engine.forward_backward(*share_of(world, 3))
    engine.update(1e-3)
    world.close()
    return unchanged


@pytest.mark.parametrize("strategy", BOTH)
def test_a_bad_step_is_discarded(strategy: str, pool: Pool) -> None:
    assert pool.run(2, discarded, strategy) == [True, True]


# ------------------------------------------------------------------------------------------------ Horovod


class Unused(DecoderTask):
    def build_model(self) -> nn.Module:
        model = super().build_model()
        model.spare = nn.Linear(2, 2)
        return model


def refused(strategy: str, task: DecoderTask) -> str:
    world, engine = engine_of(strategy, task=task)
    try:
        engine.forward_backward(*share_of(world, 2))
        engine.update(1e-3)
    except TrainkitError as error:
        return str(error)
    finally:
        world.barrier()  # a rank that leaves earlier ends the other's reductions with Horovod's error
        world.close()
    return "nothing was refused"


def test_horovod_refuses_a_parameter_that_nothing_uses(pool: Pool) -> None:
    """Horovod would invent a gradient for it, and weight decay would change it."""
    for message in pool.run(2, refused, "horovod", Unused()):
        assert "spare.weight, spare.bias took no part in the loss" in message


class Normed(DecoderTask):
    """Running statistics behind the tokens, which differ from rank to rank."""

    def build_model(self) -> nn.Module:
        model = super().build_model()
        if isinstance(model, Decoder):
            statistics = _Statistics(self.width)
            statistics.running_var += int(os.environ["RANK"])  # type: ignore[operator]
            model.norm = nn.Sequential(statistics, model.norm)  # type: ignore[assignment]
            model.places.to(torch.bfloat16).requires_grad_(False)
        return model


class _Statistics(nn.BatchNorm1d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


def state_after_a_step(strategy: str) -> dict[str, torch.Tensor]:
    world, engine = engine_of(strategy, task=Normed())
    start = engine.model.norm[0].running_var.clone()
    engine.forward_backward(*share_of(world, 3))
    engine.update(1e-3)
    state = {"running_var at the start": start, **{n: t.clone() for n, t in engine.model.state_dict().items()}}
    world.close()
    return {name: t.float() for name, t in state.items()}


def test_horovod_gives_all_ranks_the_weights_and_statistics_of_rank_0(pool: Pool) -> None:
    first, second = pool.run(2, state_after_a_step, "horovod")
    assert [name for name, tensor in first.items() if not torch.equal(tensor, second[name])] == []
    assert first["norm.0.num_batches_tracked"] == 2
    assert first["norm.0.running_mean"].any()


def door() -> tuple[str, str]:
    """Where the rendezvous server listened, and what a caller finds there after all have met."""
    world = STRATEGIES["horovod"].connect("cpu")
    world.barrier()  # rank 0 is here only when it has ended its server
    where = os.environ["HOROVOD_GLOO_RENDEZVOUS_ADDR"], int(os.environ["HOROVOD_GLOO_RENDEZVOUS_PORT"])
    try:
        socket.create_connection(where, 5).close()
        found = "open"
    except ConnectionRefusedError:
        found = "closed"
    world.close()
    return where[0], found


def test_the_rendezvous_server_listens_on_the_loopback_and_only_until_all_have_met(pool: Pool) -> None:
    assert pool.run(2, door) == [("127.0.0.1", "closed")] * 2


def deserted() -> str:
    """Rank 1 leaves, as a rank does that fails; rank 0 is in a reduction."""
    import horovod.torch as hvd

    world = STRATEGIES["horovod"].connect("cpu")
    message = ""
    try:
        if world.rank == 0:
            world.reduce(torch.ones(2))
        else:
            hvd.shutdown()
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
    world.barrier()
    world.close()
    return message


def test_a_rank_that_leaves_ends_the_reduction_of_the_others(pool: Pool) -> None:
    waited, left = pool.run(2, deserted, timeout=60)
    assert "HorovodInternalError: Horovod has been shut down" in waited
    assert left == ""


# --------------------------------------------------------------------------------------------- Accelerate


def started_otherwise(how: str) -> str:
    """Let Accelerate start in another way than the strategy would; return what trainkit says to that."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    strategy = STRATEGIES["accelerate"]
    if how == "variable":
        os.environ["ACCELERATE_TORCH_DEVICE"] = "meta"
    try:
        if how == "before":
            assert Accelerator().num_processes == 1  # on both ranks, and without a word
        world = strategy.connect("cpu")
        if how == "between":
            assert Accelerator().num_processes == 1
        strategy.build(main.training(make("", "accelerate")), world)
    except TrainkitError as error:
        return str(error)
    finally:
        os.environ.pop("ACCELERATE_TORCH_DEVICE", None)
        AcceleratorState._reset_state(True)
        PartialState().destroy_process_group()
        PartialState._reset_state()
    return "not seen"


@pytest.mark.parametrize("when", ["before", "between"])
def test_a_silent_start_without_the_other_ranks_is_refused(when: str, pool: Pool) -> None:
    for rank, message in enumerate(pool.run(2, started_otherwise, when)):
        assert "started as rank 0 of 1 on cpu (distributed_type=NO)" in message
        assert f"but this is rank {rank} of 2" in message


def test_a_start_on_another_device_is_refused(pool: Pool) -> None:
    for message in pool.run(2, started_otherwise, "variable"):
        assert "on meta" in message
        assert "ACCELERATE_TORCH_DEVICE" in message
