"""Examples packed into one row without padding, and the proof that a model keeps them apart.

Positions that restart at 0 tell transformers where an example begins: without a mask of ours it builds the
block-diagonal causal one (transformers.masking_utils). Logits are asked for only where the next token counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from recipes._chat import Example
from trainkit.errors import TrainkitError
from trainkit.protocols import Batch

if TYPE_CHECKING:
    from torch import Tensor, nn

NOTHING = -1  # the label of a token whose next one does not count


class Packed:
    """Examples by number; a micro-batch is one row [1, tokens] of whole examples."""

    def __init__(self, examples: Sequence[Example]) -> None:
        import torch

        sizes = [len(example.tokens) for example in examples]
        self.bounds: list[int] = [0, *np.cumsum(sizes, dtype=np.int64).tolist()]
        rows = np.empty((3, self.bounds[-1]), np.int32)  # tokens, positions, labels
        for example, start, size in zip(examples, self.bounds, sizes, strict=False):
            tokens, positions, labels = rows[:, start : start + size]
            tokens[:] = example.tokens
            positions[:] = np.arange(size)
            labels[:-1] = np.where(example.counted[1:], example.tokens[1:], NOTHING)
            labels[-1] = NOTHING
        self.rows = torch.from_numpy(rows)

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def fetch(self, ids: Sequence[int]) -> Batch:
        import torch

        bounds = self.bounds
        tokens, positions, labels = torch.cat([self.rows[:, bounds[i] : bounds[i + 1]] for i in ids], 1).long()
        kept = (labels != NOTHING).nonzero()[:, 0]
        inputs = {"input_ids": tokens[None], "position_ids": positions[None], "logits_to_keep": kept}
        return Batch(inputs, {"labels": labels[kept]}, len(kept), len(tokens))


def prove_apart(model: nn.Module, name: str) -> None:
    """Run a few tokens through `model`, once alone and once behind others. Raises TrainkitError if that changes what
    it says about them: it does not restart its attention where positions do."""
    import torch

    alone = torch.tensor([[7, 8, 9]])
    behind = torch.tensor([[3, 4, 5, 6, 7, 8, 9]])

    def logits(tokens: Tensor, positions: list[int]) -> Tensor:
        kept = torch.arange(tokens.shape[1] - 3, tokens.shape[1])
        found: Tensor = model(input_ids=tokens, position_ids=torch.tensor([positions]), logits_to_keep=kept).logits
        return found

    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            expected, found = logits(alone, [0, 1, 2]), logits(behind, [0, 1, 2, 3, 0, 1, 2])
    except TypeError as error:
        raise TrainkitError(f"{name} cannot be trained on packed examples: {error}") from error
    finally:
        model.train(training)
    near = 1e-3 * float(expected.abs().max())  # rounding stays a thousand times below this
    if found.shape != expected.shape or float((found - expected).abs().max()) > near:
        raise TrainkitError(f"{name} mixes packed examples: it does not tell them apart by positions that restart")
