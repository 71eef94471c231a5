"""The README's table of features and strategies: what it refuses is refused, what it says works is proved by a test
of every strategy, and is done, not only harmless."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.conformance import features
from tests.conformance.cells import EACH, STRATEGIES, strategy_of
from tests.conformance.decoder import DecoderTask
from tests.conformance.engines import on_world
from tests.conformance.pool import Pool
from tests.unit.strategy import test_engine
from tests.unit.strategy.test_engine import TRAINING, share
from trainkit.protocols import World
from trainkit.strategy._parallelize import sharded

# -------------------------------------------------------------------------------------------- refusals

WHOLE, ONE_AXIS = "every rank keeps the whole model on its device", "only what the shard axis divides"
REFUSED = {
    **{(name, "CPU offload"): ("strategy.cpu_offload", WHOLE) for name in ("local", "ddp", "horovod", "accelerate")},
    **{(name, "CPU offload"): ("strategy.cpu_offload", ONE_AXIS) for name in ("tensor", "pipeline")},
    ("ddp", "compile"): ("train.compile", "buckets of 1 MiB or more"),
    ("zero3", "compile"): ("train.compile", "the hooks with which zero3 gathers"),
    ("pipeline", "compile"): ("train.compile", "strategy.schedule=zero_bubble"),
    ("mesh", "compile"): ("train.compile", "strategy.schedule=zero_bubble"),
}


def test_what_a_strategy_cannot_do_is_refused_before_the_start_by_name_and_reason() -> None:
    found = {(s, f): refusal for s, cells in features.table().items() for f, refusal in cells.items()}
    assert found.keys() == REFUSED.keys()
    for cell, (key, reason) in REFUSED.items():
        problem = found[cell].problem
        assert problem.key == key
        assert reason in problem.message
        assert problem.hint


def test_the_table_has_every_strategy() -> None:
    assert set(features.STRATEGIES) == {path.stem for path in features.CONF.glob("*.yaml")}


# ---------------------------------------------------------------------------------------------- proofs


def modules() -> Iterator[ModuleType]:
    """Where tests are marked with what they prove."""
    yield test_engine
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        yield importlib.import_module(f"tests.conformance.{path.stem}")


def proofs(test: Any) -> Iterator[tuple[str, str]]:
    """(strategy, feature) that the marks of `test` name: of every strategy that it is parametrized with."""
    marks = getattr(test, "pytestmark", [])
    for mark in (m for m in marks if m.name == "proves"):
        for feature in mark.args:
            names = [mark.kwargs["strategy"]] if mark.kwargs else parametrized(marks)
            yield from ((strategy_of(name), feature) for name in names if proves(name, feature))


def parametrized(marks: list[pytest.Mark]) -> Iterator[str]:
    """The names in STRATEGIES that a test is run with."""
    for arguments, values in (m.args for m in marks if m.name == "parametrize"):
        for value in values if {"strategy", "after"} & {*arguments} else ():
            cell = getattr(value, "values", value)
            yield cell[0] if "strategy" in arguments else cell[arguments.index("after")][0]


def proves(name: str, feature: str) -> bool:
    """Whether STRATEGIES[name] has the option that the feature consists of."""
    options = vars(STRATEGIES[name])
    return feature != "CPU offload" or any(value for key, value in options.items() if "offload" in key)


def test_every_cell_that_works_is_proved() -> None:
    proved = {cell for module in modules() for test in vars(module).values() for cell in proofs(test)}
    always = {s: [f for f, r in cells.items() if not r.words] for s, cells in features.table().items()}
    assert proved == {(s, f) for s in features.STRATEGIES for f in features.FEATURES if f not in always[s]}


# --------------------------------------------------------------------------------------------- effects


class Watched(nn.LayerNorm):
    """Notes for every forward whether it computes under autocast."""

    forwards: list[bool] = []  # noqa: RUF012  # of this process, not of a module

    def forward(self, x: Tensor) -> Tensor:
        self.forwards.append(torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16)
        return super().forward(x)


class WatchedTask(DecoderTask):
    def build_model(self) -> nn.Module:
        model: Any = super().build_model()
        for layer in model.layers:
            layer.norm1 = Watched(self.width)
        return model  # type: ignore[no-any-return]


class Travelling(TorchDispatchMode):
    """The dtypes of what torch sends for a strategy. What a tensor axis sends within a layer has other names."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if op.namespace == "c10d":
            tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            self.dtypes |= {t.dtype for t in tensors if t.is_floating_point()}
        return op(*args, **(kwargs or {}))


def effects(world: World, name: str) -> tuple[float, set[bool], set[torch.dtype], set[torch.dtype]]:
    """Of a step in bf16 with checkpointing: forwards per block, whether under autocast, dtypes of what travels, and of
    weights and moments."""
    training = replace(TRAINING, task=WatchedTask(), precision="bf16", activation_checkpointing=True, clip_norm=0.5)
    engine: Any = STRATEGIES[name].build(training, world)
    Watched.forwards.clear()
    with Travelling() as travelling:
        engine.forward_backward(share(2), 1.0)
        forwards = list(Watched.forwards)
        engine.update(1e-3)
    state = engine.state_dict()
    kept = [*state["model"].values(), *(t for moments in state["optimizer"].values() for t in moments.values())]
    blocks = sum(isinstance(module, Watched) for module in engine.model.modules())
    return len(forwards) / blocks, set(forwards), travelling.dtypes, {t.dtype for t in kept}


@pytest.mark.parametrize(("strategy", "ranks"), EACH)
def test_blocks_are_recomputed_in_bf16_and_what_is_summed_and_kept_is_fp32(
    strategy: str, ranks: int, pool: Pool
) -> None:
    wide = {torch.float32, torch.float64}
    for forwards, autocast, travels, kept in pool.run(ranks, on_world, strategy, effects):
        assert forwards == 2
        assert autocast == {True}
        assert kept == {torch.float32}
        assert travels <= wide if strategy == "horovod" else travels and travels <= wide  # Horovod sends by itself


def offloads(world: World, name: str) -> bool:
    """Whether FSDP2 or DeepSpeed, as it stands after the start, keeps its part in host memory."""
    engine: Any = STRATEGIES[name].build(TRAINING, world)
    if name.startswith("zero"):
        return bool(engine._wrapped.zero_offload_optimizer())
    groups = [part._get_fsdp_state()._fsdp_param_group for part in sharded(engine.model)]
    return all(param.offload_to_cpu for group in groups for param in group.fsdp_params)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        *(("fsdp", False), ("fsdp-offload", True), ("mesh-offload", True)),
        *(("zero1", False), ("zero1-offload", True), ("zero2-offload", True), ("zero3-offload", True)),
    ],
)
def test_offloading_is_what_the_framework_is_told(strategy: str, expected: bool, pool: Pool) -> None:
    assert pool.run(2, on_world, strategy, offloads) == [expected] * 2
