"""What a recipe tells of its model so that a strategy can cut it into stages, and so that its activations can be
estimated. torch is imported for its types only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Parts:
    """How a model is cut into the stages of a pipeline: first -> Task.blocks, one after the other -> last.

    first    the modules before the blocks (embeddings), which only the first stage has
    last     those after them (norm, head), which only the last stage has
    shape    shape(inputs): the shape of the hidden state that goes from block to block, for one micro-batch
    forward  forward(model, hidden, inputs, is_last): what one stage computes. `hidden` is what the stage before has
             returned, None in the first. In `model` a module that another stage has returns its first input, an
             Embedding zero. Returns the hidden state, in the last stage the model's output.
    example  inputs of a small micro-batch. Where there is one, the stages are compared with the whole model before
             training.
    """

    first: Sequence[nn.Module]
    last: Sequence[nn.Module]
    shape: Callable[[Mapping[str, Tensor]], Sequence[int]]
    forward: Callable[[nn.Module, Tensor | None, Mapping[str, Tensor], bool], Any]
    example: Mapping[str, Tensor] | None = None


@dataclass(frozen=True, kw_only=True)
class Widths:
    """Channels of a decoder: between its layers, inside their feed-forward part, which may be gated, and of its
    logits."""

    model: int
    inner: int
    gated: bool
    vocabulary: int


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """What is known of a model before it is built.

    layers             how many repeated layers there are, which is what Task.blocks gives
    heads              the numbers of attention heads: of queries, and of keys and values where they have fewer
    sequence_length    how many elements every sample's sequence has, where Task.sequence_part divides it
    sequence_parallel  whether its tensor plan may say where the sequence is divided
    widths             for an estimate of its activations (docs/simulation.md)
    """

    layers: int
    heads: tuple[int, ...]
    sequence_length: int | None = None
    sequence_parallel: bool = True
    widths: Widths | None = None
