"""Activations of a decoder by formula, to check what is measured by hand.

Korthikanti et al., Reducing Activation Recomputation in Large Transformer Models (MLSys 2023, arXiv:2205.05198),
sections 4.1 to 4.3: a matrix keeps its input, a nonlinearity and a norm theirs. Per token and layer of width h, with
feed-forward width f and k channels of keys:

    norms and the matrices behind them       4 h            not divided by the tensor axis, but by sequence_parallel
    queries, keys, values, attention output  2 h + 2 k      divided by the tensor axis
    feed-forward                             2 f            divided by it; 4 f where it is gated

and 2 h + v around the layers (last norm, head, logits). With f = 4 h and k = h that is their 34 h bytes at 2 bytes an
element (16 h elements, and 2 h of dropout masks). Their 5 a s / h, the attention matrix, is left out: fused attention
(Dao et al., 2022, arXiv:2205.14135) does not keep it. With activation checkpointing a layer keeps its input only: h.
An element takes 4 bytes; with train.precision=bf16 2, but 4 in norms and logits, which autocast computes in fp32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainkit.parts import ModelShape
from trainkit.protocols import Batch, Precision, Training


@dataclass(frozen=True, kw_only=True)
class Divided:
    """How many ranks divide the layers' matrices, and whether they divide the sequence between them and the logits,
    too; whether layers are computed again for backward."""

    tensor: int = 1
    sequence: bool = False
    logits: bool = False
    recomputed: bool = False


def activations(shape: ModelShape, tokens: int, precision: Precision, divided: Divided) -> int | None:
    """Bytes that one micro-batch of `tokens` tokens keeps for backward on one rank. None where the widths of the model
    are not known."""
    if shape.widths is None:
        return None
    h, f, v = shape.widths.model, shape.widths.inner, shape.widths.vocabulary
    k = h * shape.heads[-1] // shape.heads[0]
    half = 2 if precision == "bf16" else 4
    between = 2 * h * (4 + half) / (divided.tensor if divided.sequence else 1)
    inside = (2 * h + 2 * k + (4 if shape.widths.gated else 2) * f) * half / divided.tensor
    layer = 4 * h if divided.recomputed else between + inside
    after = h * (4 + half) + 4 * v / (divided.tensor if divided.logits else 1)
    return round(tokens * (shape.layers * layer + after))


def of(training: Training, share: Sequence[Batch], divided: Divided) -> int | None:
    """`activations` of the largest micro-batch of `share`; None where the recipe does not tell its model's widths."""
    shape = training.task.model_shape()
    tokens = max(batch.tokens for batch in share)
    return None if shape is None else activations(shape, tokens, training.precision, divided)
