"""Decoders of the transformers library cut into stages by their own forward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from recipes import _hf
from tests.conformance.llama import LlamaTask
from trainkit.errors import TrainkitError
from trainkit.parts import Parts
from trainkit.strategy._stages import keeping, prove, sections

SMALL = {"vocab_size": 40, "num_hidden_layers": 4, "num_attention_heads": 4, "hidden_size": 32, "use_cache": False}
GROUPED = {"intermediate_size": 48, "num_key_value_heads": 2}
SLIDING = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", GROUPED),
    "llama-tied": ("Llama", GROUPED | {"tie_word_embeddings": True}),
    "mistral": ("Mistral", GROUPED | {"sliding_window": 4}),
    "qwen2": ("Qwen2", GROUPED | SLIDING),
    "qwen3": ("Qwen3", GROUPED | SLIDING | {"head_dim": 8}),
    "gemma": ("Gemma", GROUPED | {"head_dim": 8}),
    "phi3": ("Phi3", GROUPED | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}),
    "gpt2": ("GPT2", {"n_positions": 32, "bos_token_id": 0, "eos_token_id": 0}),
    "neox": ("GPTNeoX", {"intermediate_size": 48}),
    "mixtral": ("Mixtral", GROUPED | EXPERTS),
}


def build(family: str, options: dict[str, Any]) -> nn.Module:
    import transformers

    torch.manual_seed(5)
    config = getattr(transformers, f"{family}Config")(**SMALL | options)
    suffix = "LMHeadModel" if family == "GPT2" else "ForCausalLM"
    model: nn.Module = getattr(transformers, f"{family}{suffix}")(config)
    return model.eval()


@dataclass(frozen=True, kw_only=True)
class Made(LlamaTask):
    """Cuts whatever model it is given."""

    def pipeline(self, model: nn.Module) -> Parts | None:
        return _hf.pipeline_parts(model)


@pytest.mark.parametrize("stages", [2, 4])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_stages_say_what_the_model_says(name: str, stages: int) -> None:
    """For packed rows too, with positions that restart and answers picked out of them."""
    model: Any = build(*FAMILIES[name])
    found, parts = sections(Made(), model, stages, None)
    prove(model, found, parts)
    inputs = {
        "input_ids": torch.arange(12)[None],
        "position_ids": torch.tensor([[*range(7), *range(5)]]),
        "logits_to_keep": torch.tensor([2, 6, 11]),
    }
    hidden: Any = None
    with torch.no_grad():
        expected = model(**inputs).logits
        for stage in range(stages):
            part = keeping(model, found.units, found.of([stage]))
            hidden = parts.forward(part, hidden, inputs, stage == stages - 1)
    assert hidden.logits.shape == (1, 3, 40)
    assert torch.allclose(hidden.logits, expected, atol=1e-6)


def test_adapters_are_cut_with_their_model() -> None:
    task = LlamaTask(lora=True)
    model = task.build_model()
    found, parts = sections(task, model, 2, None)
    prove(model, found, parts)
    last = dict(keeping(model, found.units, found.of([1])).named_parameters())
    assert any(".layers.1.self_attn.q_proj.lora_A." in name for name in last)
    assert not any(".layers.0." in name for name in last)


def test_a_model_that_scales_what_it_takes_for_embeddings_is_refused() -> None:
    """Granite multiplies embeddings in its forward, in every stage then."""
    model = build("Granite", GROUPED | {"embedding_multiplier": 2.0})
    found, parts = sections(Made(), model, 2, None)
    with pytest.raises(TrainkitError, match="GraniteForCausalLM computes something else when it is cut into stages"):
        prove(model, found, parts)
