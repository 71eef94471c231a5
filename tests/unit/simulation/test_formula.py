"""The published formula of activations, where its terms are known by heart."""

from __future__ import annotations

from typing import Any

import pytest

from trainkit.parts import ModelShape, Widths
from trainkit.simulation.formula import Divided, activations

H, V, TOKENS, LAYERS = 64, 100, 10, 3
AFTER = 4 * (2 * H + V)  # last norm, head, logits


def of(gated: bool = False, kv_heads: int = 8, **divided: Any) -> float:
    """Bytes per token and layer in fp32, with the paper's feed-forward part: four times as wide."""
    widths = Widths(model=H, inner=4 * H, gated=gated, vocabulary=V)
    shape = ModelShape(layers=LAYERS, heads=(8, kv_heads), widths=widths)
    found = activations(shape, TOKENS, "fp32", Divided(**divided))
    if found is None:
        raise ValueError(shape)
    return (found / TOKENS - AFTER) / LAYERS


def test_a_layer_keeps_sixteen_times_its_width() -> None:
    assert of() == 4 * 16 * H


@pytest.mark.parametrize(
    ("given", "elements"),
    [
        ({"tensor": 2}, 4 * H + 12 * H / 2),
        ({"tensor": 2, "sequence": True}, 16 * H / 2),
        ({"gated": True}, 24 * H),
        ({"kv_heads": 2}, 16 * H - 2 * H * 3 / 4),
        ({"recomputed": True}, H),
    ],
)
def test_and_less_or_more(given: dict[str, Any], elements: float) -> None:
    assert of(**given) == 4 * elements


def test_a_model_of_unknown_widths_has_none() -> None:
    assert activations(ModelShape(layers=1, heads=(1,)), 1, "fp32", Divided()) is None
