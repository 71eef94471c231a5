"""The shared engine against plain autograd, in one process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.conformance.decoder import DecoderTask
from trainkit.optimizer.adamw import AdamW
from trainkit.protocols import Batch, Training
from trainkit.strategy._spmd import SpmdEngine
from trainkit.strategy.local import Local

ADAMW = AdamW(lr=1e-2, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1)
TRAINING = Training(
    task=DecoderTask(),
    optimizer=ADAMW,
    seed=3,
    clip_norm=None,
    precision="fp32",
    activation_checkpointing=False,
    compile=False,
    ema=None,
)


def engine_of(training: Training = TRAINING) -> SpmdEngine:
    strategy = Local()
    engine = strategy.build(training, strategy.connect("cpu"))
    if not isinstance(engine, SpmdEngine):
        raise TypeError(engine)
    return engine


def share(*sizes: int) -> list[Batch]:
    source = training_source()
    stops = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [source.fetch(range(stop - size, stop)) for stop, size in zip(stops, sizes, strict=True)]


def training_source() -> Any:
    return DecoderTask().build_data().train


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def expected_gradients(batch: Batch) -> dict[str, Tensor]:
    torch.manual_seed(TRAINING.seed)
    model = TRAINING.task.build_model()
    (TRAINING.task.loss(model(**batch.inputs), batch.targets) / batch.weight).backward()  # type: ignore[no-untyped-call]
    return gradients(model)


@pytest.mark.parametrize("sizes", [(10,), (4, 4, 2), (1,) * 10])
def test_gradients_are_those_of_the_mean_over_all_counted_tokens(sizes: tuple[int, ...]) -> None:
    engine, whole = engine_of(), share(10)[0]
    batches = share(*sizes)
    loss_sum = engine.forward_backward(batches, sum(b.weight for b in batches))
    torch.manual_seed(TRAINING.seed)
    assert loss_sum.item() == pytest.approx(
        TRAINING.task.loss(TRAINING.task.build_model()(**whole.inputs), whole.targets).item(), rel=1e-6
    )
    for name, gradient in expected_gradients(whole).items():
        torch.testing.assert_close(gradients(engine.model)[name], gradient, rtol=1e-4, atol=1e-7)


def test_a_filler_counts_nothing() -> None:
    engine, (real,) = engine_of(), share(6)
    filler = replace(real, weight=0)
    loss_sum = engine.forward_backward([real, filler], real.weight)
    for name, gradient in expected_gradients(real).items():
        torch.testing.assert_close(gradients(engine.model)[name], gradient)
    sums, weight = engine.evaluate([real, filler])
    assert weight == real.weight
    assert sums["loss"].item() == pytest.approx(loss_sum.item(), rel=1e-6)


@pytest.mark.proves("clipping", strategy="local")
def test_update_clips_by_the_norm_of_all_gradients_together() -> None:
    engine, batches = engine_of(replace(TRAINING, clip_norm=0.01)), share(8)
    engine.forward_backward(batches, batches[0].weight)
    norm = torch.cat([g.flatten() for g in gradients(engine.model).values()]).norm()
    clipped = {}
    engine.optimizer.register_step_pre_hook(lambda *_: clipped.update(gradients(engine.model)))
    assert engine.update(1e-3).item() == pytest.approx(norm.item(), rel=1e-5)
    assert norm > 0.01
    assert torch.cat([g.flatten() for g in clipped.values()]).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_update_steps_at_the_learning_rate_it_is_given_and_zeroes() -> None:
    training = replace(TRAINING, optimizer=replace(ADAMW, weight_decay=0.0))
    for one, lr in ((engine_of(training), 0.02), (engine_of(training), 0.01)):
        before = [p.detach().clone() for p in one.parameters]
        one.forward_backward(share(8), 1.0)
        one.update(lr)
        change = [(p - b).abs().max().item() for p, b in zip(one.parameters, before, strict=True)]
        assert max(change) == pytest.approx(lr, rel=0.2)  # Adam's first step has the size of the learning rate
        assert all(p.grad is None for p in one.parameters)


def test_discard_leaves_the_weights_alone() -> None:
    engine = engine_of()
    before = {n: t.clone() for n, t in engine.model.state_dict().items()}
    engine.forward_backward(share(8), 1.0)
    engine.discard()
    assert all(p.grad is None for p in engine.parameters)
    assert all(torch.equal(t, before[n]) for n, t in engine.model.state_dict().items())


def test_norms_and_biases_do_not_decay() -> None:
    engine = engine_of()
    decay = {id(p): g["weight_decay"] for g in engine.optimizer.param_groups for p in g["params"]}
    for _, p in engine.model.named_parameters():
        assert decay[id(p)] == (0.1 if p.ndim >= 2 else 0.0)


@pytest.mark.proves("EMA", strategy="local")
def test_the_average_follows_its_definition_and_serves_evaluation() -> None:
    engine = engine_of(replace(TRAINING, ema=0.5))
    expected = {n: p.detach().clone() for n, p in engine.model.named_parameters()}
    for _ in range(3):
        engine.forward_backward(share(8), 1.0)
        engine.update(0.01)
        expected = {n: 0.5 * expected[n] + 0.5 * p.detach() for n, p in engine.model.named_parameters()}
    state = engine.state_dict()["ema"]
    for name, value in expected.items():
        torch.testing.assert_close(state[name], value)
    live = {n: p.detach().clone() for n, p in engine.model.named_parameters()}
    (batch,) = share(5)
    sums, _ = engine.evaluate([batch])
    assert all(torch.equal(p, live[n]) for n, p in engine.model.named_parameters())
    engine.model.load_state_dict(expected)
    with torch.no_grad():
        loss = TRAINING.task.loss(engine.model(**batch.inputs), batch.targets)
    assert sums["loss"].item() == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.proves("evaluation", strategy="local")
def test_evaluation_is_without_dropout_and_returns_to_training() -> None:
    engine = engine_of(replace(TRAINING, task=DecoderTask(dropout=0.5)))
    batches = share(8)
    assert engine.evaluate(batches)[0]["loss"] == engine.evaluate(batches)[0]["loss"]
    assert engine.model.training


def test_checkpointed_blocks_are_computed_twice_and_keep_their_names() -> None:
    plain = engine_of()
    engine = engine_of(replace(TRAINING, activation_checkpointing=True))
    calls = []
    engine.task.blocks(engine.model)[0].get_submodule("up").register_forward_hook(lambda *_: calls.append(1))
    engine.forward_backward(share(8), 1.0)
    assert len(calls) == 2
    assert list(engine.model.state_dict()) == list(plain.model.state_dict())


def test_bf16_computes_in_bfloat16_and_keeps_fp32_weights() -> None:
    engine = engine_of(replace(TRAINING, precision="bf16"))
    seen = []
    engine.model.head.register_forward_hook(lambda m, i, output: seen.append(output.dtype))  # type: ignore[union-attr,operator]
    engine.forward_backward(share(8), 1.0)
    assert seen == [torch.bfloat16]
    assert {g.dtype for g in gradients(engine.model).values()} == {torch.float32}


def test_state_read_before_the_first_step_is_empty_of_traces() -> None:
    engine = engine_of()
    before = {n: p.detach().clone() for n, p in engine.model.named_parameters()}
    state = engine.state_dict()["optimizer"]
    assert all(not t.any() for moments in state.values() for t in moments.values())
    assert all(torch.equal(p, before[n]) for n, p in engine.model.named_parameters())


@dataclass(frozen=True, kw_only=True)
class Tied(DecoderTask):
    """Input and output embeddings are one parameter; the first block is frozen."""

    def build_model(self) -> nn.Module:
        model: Any = super().build_model()
        model.head.weight = model.tokens.weight
        model.layers[0].requires_grad_(False)
        return model  # type: ignore[no-any-return]

    def loss(self, output: Any, targets: Mapping[str, Tensor]) -> Tensor:
        return super().loss(output, targets)


def test_state_holds_tied_parameters_once_and_frozen_ones_not_at_all() -> None:
    engine = engine_of(replace(TRAINING, task=Tied()))
    state = engine.state_dict()
    names = set(state["model"])
    assert "tokens.weight" in names
    assert "head.weight" not in names
    assert not any(n.startswith("layers.0.") for n in names)
    assert set(state["optimizer"]) == names
