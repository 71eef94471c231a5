"""Small models of the transformers library for the strategies that divide a model: tied embeddings, LoRA adapters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from recipes import _hf
from tests.conformance.decoder import LENGTH, VOCAB, Copies
from trainkit.parts import ModelShape, Parts
from trainkit.protocols import Batch, Data, Task


@dataclass(frozen=True, kw_only=True)
class LlamaTask(Task):
    lora: bool = False
    samples: int = 53

    def build_model(self) -> nn.Module:
        from peft import LoraConfig, get_peft_model
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2 * LENGTH,
            tie_word_embeddings=True,
            use_cache=False,
        )
        model: Any = LlamaForCausalLM(config)
        if not self.lora:
            return model  # type: ignore[no-any-return]
        adapted: Any = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
        return adapted  # type: ignore[no-any-return]

    def build_data(self) -> Data:
        return Data(Renamed(self.samples, 1), Renamed(11, 2))

    def loss(self, output: Any, targets: Mapping[str, Tensor]) -> Tensor:
        labels = targets["labels"].flatten()
        return cross_entropy(output.logits.flatten(0, 1).float(), labels, ignore_index=-100, reduction="sum")

    def model_shape(self) -> ModelShape:
        return ModelShape(layers=2, heads=(4, 2), sequence_length=LENGTH)

    def sequence_part(self, batch: Batch, part: int, parts: int) -> Batch:
        return _hf.sequence_part(batch, part, parts)

    def tensor_plan(self, model: nn.Module) -> Mapping[str, Any] | None:
        plan = super().tensor_plan(model)
        if plan is None or not self.lora:
            return None if plan is None else {**plan, **_hf.SEQUENCE}
        return _hf.adapted_plan(model, plan)

    def pipeline(self, model: nn.Module) -> Parts | None:
        return _hf.pipeline_parts(model)

    def sample(self, model: nn.Module) -> str:
        asked = torch.arange(5)[None]
        tokens: Any = model.generate(input_ids=asked, max_new_tokens=6, do_sample=False, use_cache=True)  # type: ignore[operator]
        return str(tokens.tolist())


class Renamed(Copies):
    def fetch(self, ids: Any) -> Batch:
        batch = super().fetch(ids)
        return Batch({"input_ids": batch.inputs["ids"]}, batch.targets, batch.weight, batch.tokens)
