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
