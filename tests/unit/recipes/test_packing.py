"""Packed rows on the real model: an example is computed as if it were alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, MambaConfig, MistralConfig

from recipes._chat import Example
from recipes._packing import Packed, prove_apart
from recipes.llm_finetune import LlmFinetune
from trainkit.errors import TrainkitError

NEAR = {"rtol": 1e-3, "atol": 1e-2}  # a glance at a neighbour moves these logits (up to 35) by whole units


def example(size: int, first: int, counted: slice) -> Example:
    mask = np.zeros(size, np.bool_)
    mask[counted] = True
    return Example(np.arange(first, first + size, dtype=np.int32), mask)


SOME = Packed(
    [
        example(30, 100, slice(20, 30)),
        example(12, 500, slice(4, 12)),
        example(20, 900, slice(0, 20)),
        example(1, 7, slice(1)),
    ]
)


def logits(model: nn.Module, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(**SOME.fetch(ids).inputs).logits[0]
    return found


def test_a_row_restarts_its_positions_and_counts_what_comes_next() -> None:
    batch = SOME.fetch([1, 3, 1])
    one = list(range(500, 512))
    assert batch.inputs["input_ids"].tolist() == [[*one, 7, *one]]
    assert batch.inputs["position_ids"].tolist() == [[*range(12), 0, *range(12)]]
    assert batch.inputs["logits_to_keep"].tolist() == [*range(3, 11), *range(16, 24)]
    assert batch.targets["labels"].tolist() == one[4:] * 2
    assert (batch.weight, batch.tokens) == (16, 25)


def test_the_first_token_of_an_example_is_never_predicted() -> None:
    assert SOME.fetch([2]).targets["labels"].tolist() == list(range(901, 920))
    assert SOME.fetch([3]).weight == 0


def test_no_examples_are_an_empty_source() -> None:
    assert len(Packed([])) == 0


@pytest.mark.parametrize("training", [False, True])
def test_a_packed_example_is_computed_as_if_it_were_alone(smollm2: nn.Module, training: bool) -> None:
    smollm2.train(training)
    together, alone = logits(smollm2, [2, 0, 1]), torch.cat([logits(smollm2, [i]) for i in (2, 0, 1)])
    torch.testing.assert_close(together, alone, **NEAR)


def test_an_example_does_not_see_its_neighbour(smollm2: nn.Module) -> None:
    one, other = logits(smollm2, [2, 1])[-8:], logits(smollm2, [0, 1])[-8:]
    torch.testing.assert_close(one, other, **NEAR)


def test_the_loss_of_a_row_is_the_sum_over_its_examples(finetune: LlmFinetune, smollm2: nn.Module) -> None:
    whole, *parts = (
        finetune.loss(smollm2(**batch.inputs), batch.targets).item() for batch in map(SOME.fetch, [[0, 1], [0], [1]])
    )
    assert whole == pytest.approx(sum(parts), rel=1e-4)


SMALL: dict[str, Any] = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "initializer_range": 0.5}


def test_a_model_that_keeps_examples_apart_passes_and_is_left_in_its_mode(smollm2: nn.Module) -> None:
    prove_apart(smollm2.train(), "SmolLM2")
    assert smollm2.training
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64, "sliding_window": 4}
    prove_apart(AutoModelForCausalLM.from_config(MistralConfig(**SMALL, **heads, use_cache=False)), "Mistral")


def test_a_recurrent_model_is_refused() -> None:
    with pytest.raises(TrainkitError, match="Mamba mixes packed examples"):
        prove_apart(AutoModelForCausalLM.from_config(MambaConfig(**SMALL, use_cache=False)), "Mamba")
