"""Promise 1: a strategy or rank count changes speed and memory, never the curve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conformance.cells import CELLS, DIVIDED, EACH, STRATEGIES, WHOLE
from tests.conformance.decoder import DecoderTask
from tests.conformance.pool import Pool
from tests.conformance.training import curve, tensors, train, trained_ids

# 53 samples in global batches of 12: every epoch ends with a batch of 5, which 4 ranks share unevenly.


def same_run(folder: Path, reference: Path, loss: float, weights: float, steps: int = 20) -> None:
    ours, theirs = curve(folder), curve(reference)
    assert [r["step"] for r in ours] == [r["step"] for r in theirs] == list(range(1, steps + 1))
    for a, b in zip(ours, theirs, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=loss)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=10 * loss)
        assert (a["lr"], a["samples"]) == (b["lr"], b["samples"])
    assert trained_ids(folder) == trained_ids(reference)
    ours_at_end, theirs_at_end = tensors(folder, steps), tensors(reference, steps)
    assert ours_at_end.keys() == theirs_at_end.keys()
    for name, tensor in theirs_at_end.items():
        if name.startswith("model."):
            error = (ours_at_end[name] - tensor).norm() / tensor.norm()
            assert error < weights, name


def same_averages(folder: Path, reference: Path, weights: float, step: int = 20) -> None:
    ours, theirs = tensors(folder, step), tensors(reference, step)
    averages = [name for name in theirs if name.startswith("ema.")]
    assert averages
    for name in averages:
        assert (ours[name] - theirs[name]).norm() / theirs[name].norm() < weights, name


def halved(strategy: str, ranks: int) -> int:
    """The micro-batch of which a rank has two in a step: what costs time in most cells is how many there are. A
    pipeline would run two as gpipe."""
    return 2 if "pipeline" in strategy else -(-12 // STRATEGIES[strategy].dp_size(ranks) // 2)


def test_the_reference_is_clipped_and_learns(reference: Path) -> None:
    rows = curve(reference)
    assert max(r["grad_norm"] for r in rows) > 0.5
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert {r["samples"] for r in rows} >= {53, 106}  # the short batch at the end of each epoch


TOGETHER = WHOLE + DIVIDED
"""Proved again below with everything switched on, which leaves the curve alone as a drill."""

LONG = [("mesh-shard-tensor", 4), ("zero3-kept", 4)]
"""Of these, what takes longest."""

OTHERS = [("tensor", 4), ("tensor-loss", 4), ("zero3", 4), ("mesh-context-tensor", 4), ("mesh-replicas-tensor", 4)]
"""Combinations of what is proved by itself."""

SLOW = [*TOGETHER, *OTHERS, *(cell for cell in CELLS if cell[1] > 4)]


@pytest.mark.proves("clipping", "CPU offload")
@pytest.mark.parametrize(
    ("strategy", "ranks"),
    [pytest.param(*cell, marks=(pytest.mark.slow, pytest.mark.drill)) if cell in SLOW else cell for cell in CELLS],
)
def test_same_curve_weights_and_samples(strategy: str, ranks: int, pool: Pool, reference: Path, tmp_path: Path) -> None:
    options = {"strategy": strategy, "ranks": ranks, "micro_batch": halved(strategy, ranks)}
    pool.run(ranks, train, str(tmp_path), 1, None, options)
    same_run(tmp_path, reference, 1e-5, 1e-4)


@pytest.mark.proves("accumulation", strategy="local")
@pytest.mark.parametrize("micro_batch", [1, 5, None])
def test_accumulation_does_not_change_the_curve(
    micro_batch: int | None, pool: Pool, reference: Path, tmp_path: Path
) -> None:
    pool.run(1, train, str(tmp_path), 1, None, {"micro_batch": micro_batch})
    same_run(tmp_path, reference, 1e-5, 1e-4)


@pytest.mark.proves("checkpointing", "compile", strategy="local")
@pytest.mark.parametrize(
    "option",
    [
        *({"activation_checkpointing": True}, {"workers": 2}, {"log_every": 1}),
        pytest.param({"compile": True}, marks=(pytest.mark.slow, pytest.mark.drill)),
    ],
)
def test_how_it_is_computed_does_not_change_the_curve(
    option: dict[str, Any], pool: Pool, reference: Path, tmp_path: Path
) -> None:
    pool.run(1, train, str(tmp_path), 1, None, option)
    same_run(tmp_path, reference, 1e-5, 1e-4)


# 60 samples: no short batch, so that every rank count makes the same micro-batches, and the same roundings.
BF16: dict[str, Any] = {"precision": "bf16", "clip_norm": None, "steps": 10, "task": DecoderTask(samples=60)}


@pytest.fixture(scope="module")
def in_bf16(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bf16")
    pool.run(1, train, str(folder), 1, None, BF16)
    return folder


@pytest.mark.proves("bf16", strategy="local")
def test_bf16_stays_near_fp32(pool: Pool, in_bf16: Path, tmp_path: Path) -> None:
    """Autocast rounds activations to 8 bits of mantissa."""
    pool.run(1, train, str(tmp_path), 1, None, BF16 | {"precision": "fp32"})
    same_run(in_bf16, tmp_path, 1e-2, 5e-2, steps=10)


@pytest.mark.proves("bf16")
@pytest.mark.parametrize(
    ("strategy", "ranks"),
    [*EACH, *(pytest.param(*c, marks=pytest.mark.slow) for c in [("mesh-shard-tensor", 4), ("mesh-context", 2)])],
)
def test_bf16_is_the_same_policy(strategy: str, ranks: int, pool: Pool, in_bf16: Path, tmp_path: Path) -> None:
    """Where the model is whole, only the order of fp32 sums may differ. Where it is divided that order turns over some
    roundings, which grow in AdamW; test_features.py looks at what travels."""
    pool.run(ranks, train, str(tmp_path), 1, None, BF16 | {"strategy": strategy})
    same_run(tmp_path, in_bf16, *((1e-5, 1e-4) if (strategy, ranks) in WHOLE else (1e-3, 3e-2)), steps=10)
    assert {t.dtype for t in tensors(tmp_path, 10).values()} == {torch.float32}


@pytest.mark.parametrize(
    ("strategy", "ranks"), [("fsdp-bf16", 2), pytest.param("mesh-bf16", 4, marks=pytest.mark.slow)]
)
def test_weights_gathered_in_bf16(strategy: str, ranks: int, pool: Pool, in_bf16: Path, tmp_path: Path) -> None:
    """Norms and embeddings are rounded then, too, which autocast computes in fp32."""
    pool.run(ranks, train, str(tmp_path), 1, None, BF16 | {"strategy": strategy})
    same_run(tmp_path, in_bf16, 1e-2, 5e-2, steps=10)
    assert {t.dtype for t in tensors(tmp_path, 10).values()} == {torch.float32}


EVERYTHING: dict[str, Any] = {"steps": 10, "activation_checkpointing": True, "ema": 0.9, "eval_every": 3}


@pytest.fixture(scope="module")
def with_everything(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("everything")
    pool.run(1, train, str(folder), 1, None, EVERYTHING | {"strategy": "local"})
    return folder


def same_with_everything(folder: Path, with_everything: Path) -> None:
    same_run(folder, with_everything, 1e-5, 1e-4, steps=10)
    same_averages(folder, with_everything, 1e-4, step=10)
    evaluated = [[r["eval_loss"] for r in curve(f) if "eval_loss" in r] for f in (folder, with_everything)]
    assert len(evaluated[0]) == 4
    assert evaluated[0] == pytest.approx(evaluated[1], rel=1e-5)


@pytest.mark.proves("accumulation", "checkpointing", "EMA", "evaluation")
@pytest.mark.parametrize(
    ("strategy", "ranks"),
    [pytest.param(*cell, marks=pytest.mark.slow) if cell in LONG else cell for cell in TOGETHER],
)
def test_accumulation_checkpointing_averages_and_evaluation_together(
    strategy: str, ranks: int, pool: Pool, with_everything: Path, tmp_path: Path
) -> None:
    options = EVERYTHING | {"strategy": strategy, "micro_batch": halved(strategy, ranks)}
    pool.run(ranks, train, str(tmp_path), 1, None, options)
    same_with_everything(tmp_path, with_everything)


def train_compiled(folder: str, options: dict[str, Any]) -> int:
    """One rank: how many pieces of the model were compiled in a training."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    train(folder, 1, None, options | {"compile": True})
    return counters["frames"]["ok"]


# Not what refuses train.compile: buckets below 1 MiB, a context axis, and zero3.
REFUSED = [cell for cell in TOGETHER if cell[0] in ("ddp", "mesh-context") or "zero3" in cell[0]]
COMPILED = [("ddp-one-bucket", 2), *(cell for cell in TOGETHER if cell not in REFUSED)]
SOON = [("fsdp", 2), ("tensor", 2), ("pipeline-interleaved", 2), ("zero2", 2)]
"""One of each kind that is divided; a compiled cell takes half a minute."""


@pytest.mark.slow
@pytest.mark.proves("compile")
@pytest.mark.parametrize(
    ("strategy", "ranks"),
    [cell if cell in SOON else pytest.param(*cell, marks=pytest.mark.drill) for cell in COMPILED],
)
def test_all_of_that_compiled(strategy: str, ranks: int, pool: Pool, with_everything: Path, tmp_path: Path) -> None:
    options = EVERYTHING | {"strategy": strategy, "micro_batch": halved(strategy, ranks)}
    assert min(pool.run(ranks, train_compiled, str(tmp_path), options)) > 0
    same_with_everything(tmp_path, with_everything)


def test_evaluation_counts_every_sample_once(pool: Pool, tmp_path: Path) -> None:
    """11 held-out samples on 4 ranks: padding them to 12 would show."""
    losses = []
    for ranks in (1, 2, 4):
        folder = tmp_path / str(ranks)
        pool.run(ranks, train, str(folder), 1, None, {"strategy": "ddp", "steps": 4, "eval_every": 2})
        losses.append([r["eval_loss"] for r in curve(folder) if "eval_loss" in r])
    assert len(losses[0]) == 2
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert losses[2] == pytest.approx(losses[0], rel=1e-6)


def test_the_average_of_the_weights_is_the_same_on_every_rank_count(pool: Pool, tmp_path: Path) -> None:
    averages = []
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        pool.run(ranks, train, str(folder), 1, None, {"strategy": "ddp", "ema": 0.9})
        averages.append({n: t for n, t in tensors(folder, 20).items() if n.startswith("ema.")})
    assert averages[0].keys() == averages[1].keys() != set()
    for name, tensor in averages[0].items():
        assert torch.allclose(tensor, averages[1][name], rtol=1e-4, atol=1e-6), name
