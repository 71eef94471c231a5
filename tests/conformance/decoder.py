"""The recipe that every strategy must train alike: a small decoder, answers of uneven length, no dropout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainkit.parts import ModelShape, Parts, Widths
from trainkit.protocols import Batch, Data, Task

VOCAB, LENGTH, HEADS = 61, 12, 4


class Block(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.channels = width // HEADS
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        # No bias on the keys: softmax is blind to it, so its gradient is rounding noise, which Adam would blow up.
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        # Head by head, so that a rank of a tensor axis has whole heads: the first dimension is as many as are here.
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (-1, 3, self.channels)).unbind(-2)
        heads = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True)
        x = x + self.dropout(self.out(heads.transpose(1, 2).flatten(-2)))
        return x + self.dropout(self.down(F.gelu(self.up(self.norm2(x)))))


class Decoder(nn.Module):
    def __init__(self, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCAB, width), nn.Embedding(LENGTH, width)
        self.layers = nn.ModuleList(Block(width, dropout) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, VOCAB, bias=False)

    def forward(self, ids: Tensor, first: Tensor | None = None) -> Tensor:
        """`first`: the place of the first of `ids` in their sequence."""
        return self.decode(self.embed(ids, 0 if first is None else int(first)))

    def embed(self, ids: Tensor, first: int = 0) -> Tensor:
        return self.tokens(ids) + self.places.weight[first : first + ids.shape[1]]  # type: ignore[no-any-return]

    def decode(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


class Copies:
    """Sample i: random tokens, of which the last 1 to LENGTH-1 are the answer."""

    def __init__(self, size: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.ids = torch.randint(0, VOCAB, (size, LENGTH + 1), generator=generator)
        answers = torch.randint(1, LENGTH, (size,), generator=generator)
        self.counts = torch.arange(LENGTH)[None] >= LENGTH - answers[:, None]

    def __len__(self) -> int:
        return len(self.ids)

    def fetch(self, ids: Sequence[int]) -> Batch:
        rows, counts = self.ids[list(ids)], self.counts[list(ids)]
        labels = torch.where(counts, rows[:, 1:], -100)
        return Batch({"ids": rows[:, :-1]}, {"labels": labels}, int(counts.sum()), counts.numel())


@dataclass(frozen=True, kw_only=True)
class DecoderTask(Task):
    width: int = 32
    layers: int = 4
    dropout: float = 0.0
    samples: int = 53
    heldout: int = 11

    def build_model(self) -> nn.Module:
        return Decoder(self.width, self.layers, self.dropout)

    def build_data(self) -> Data:
        return Data(Copies(self.samples, 1), Copies(self.heldout, 2) if self.heldout else None)

    def model_shape(self) -> ModelShape:
        widths = Widths(model=self.width, inner=4 * self.width, gated=False, vocabulary=VOCAB)
        return ModelShape(layers=self.layers, heads=(HEADS,), sequence_length=LENGTH, widths=widths)

    def sequence_part(self, batch: Batch, part: int, parts: int) -> Batch:
        here = slice(part * LENGTH // parts, (part + 1) * LENGTH // parts)
        inputs = {"ids": batch.inputs["ids"][:, here], "first": torch.tensor(here.start)}
        return replace(batch, inputs=inputs, targets={"labels": batch.targets["labels"][:, here]})

    def tensor_plan(self, model: nn.Module) -> Mapping[str, Any]:
        return {
            "tokens": "embedding_rowwise",
            "layers.0": "sequence_split_input",
            "layers.*.norm1": "sequence",
            "layers.*.qkv": "colwise",
            "layers.*.out": "rowwise",
            "layers.*.norm2": "sequence",
            "layers.*.up": "colwise",
            "layers.*.down": "rowwise",
            "norm": "sequence_gather_output",
            "head": "colwise_gather_output",
        }

    def pipeline(self, model: nn.Module) -> Parts | None:
        whole: Any = model
        return Parts(
            first=[whole.tokens, whole.places],
            last=[whole.norm, whole.head],
            shape=lambda inputs: (*inputs["ids"].shape, self.width),
            forward=_stage,
            example={"ids": torch.arange(2 * LENGTH).view(2, LENGTH)},
        )

    def loss(self, output: Any, targets: Mapping[str, Tensor]) -> Tensor:
        return F.cross_entropy(output.flatten(0, 1), targets["labels"].flatten(), ignore_index=-100, reduction="sum")


def _stage(model: Any, hidden: Tensor | None, inputs: Mapping[str, Tensor], is_last: bool) -> Any:
    return model.decode(model.embed(inputs["ids"]) if hidden is None else hidden)
