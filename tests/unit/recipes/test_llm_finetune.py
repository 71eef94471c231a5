"""Packing on the real model, the split, and the exported folders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from recipes.llm_finetune import LlmFinetune, Packed
from trainkit.data.plan import split


@pytest.fixture(scope="module")
def packed(finetune: LlmFinetune) -> Packed:
    source = finetune.build_data().train
    if not isinstance(source, Packed):
        raise TypeError(source)
    return source


def logits(model: nn.Module, packed: Packed, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(**packed.fetch(ids).inputs).logits[0]
    return found


@pytest.mark.parametrize("training", [False, True])
def test_a_packed_example_is_computed_as_if_it_were_alone(smollm2: nn.Module, packed: Packed, training: bool) -> None:
    smollm2.train(training)
    ids = [3, 0, 5]
    together = logits(smollm2, packed, ids)
    alone = torch.cat([logits(smollm2, packed, [i]) for i in ids])
    torch.testing.assert_close(
        together, alone, rtol=1e-3, atol=1e-2
    )  # a glance at a neighbour moves logits by whole units


def test_an_example_does_not_see_its_neighbour(smollm2: nn.Module, packed: Packed) -> None:
    last = packed.fetch([5]).targets["labels"].numel()
    one, other = logits(smollm2, packed, [3, 5])[-last:], logits(smollm2, packed, [0, 5])[-last:]
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-2)  # a glance at a neighbour moves logits by whole units


def test_labels_are_the_counted_tokens_and_the_loss_is_their_sum(
    finetune: LlmFinetune, smollm2: nn.Module, packed: Packed
) -> None:
    ids = [1, 2, 4]
    batch = packed.fetch(ids)
    expected = [t for i in ids for t, c in zip(packed.examples[i].tokens, packed.examples[i].counted, strict=True) if c]
    assert batch.targets["labels"].tolist() == expected
    assert batch.weight == len(expected)
    assert batch.tokens == sum(len(packed.examples[i].tokens) for i in ids)
    whole = finetune.loss(smollm2(**batch.inputs), batch.targets)
    parts = sum(finetune.loss(smollm2(**b.inputs), b.targets) for b in map(packed.fetch, [[1], [2], [4]]))
    assert whole.item() == pytest.approx(float(parts), rel=1e-4)


def test_the_default_data_is_split_without_overlap(finetune: LlmFinetune) -> None:
    data = finetune.build_data()
    if data.heldout is None:
        raise TypeError(data)
    train, heldout = ({tuple(e.tokens) for e in s.examples} for s in (data.train, data.heldout))  # type: ignore[attr-defined]
    assert not train & heldout
    assert len(heldout) == pytest.approx(0.05 * (len(train) + len(heldout)), rel=0.5)
    assert split(range(len(data.heldout)), 0, 1, 4)[0]


def test_a_handful_of_own_conversations_is_enough(finetune: LlmFinetune, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(f'{{"prompt": "p{i}", "completion": "c{i}"}}\n' for i in range(2)))
    data = replace(finetune, data=str(path)).build_data()
    assert len(data.train) == len(data.heldout or []) == 1


def test_lora_trains_a_few_percent_and_null_trains_all(finetune: LlmFinetune, smollm2: nn.Module) -> None:
    trained = sum(p.numel() for p in smollm2.parameters() if p.requires_grad)
    assert 0 < trained < 0.05 * sum(p.numel() for p in smollm2.parameters())
    whole = replace(finetune, lora=None).build_model()
    assert all(p.requires_grad for p in whole.parameters())


def test_the_exported_folders_load_without_trainkit(finetune: LlmFinetune, packed: Packed, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(1)
    model = finetune.build_model()
    with torch.no_grad():  # a fresh adapter is the identity: move it
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.02)
    model.eval()
    before = logits(model, packed, [0, 1])
    finetune.export(model, tmp_path / "model")
    merged: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(
        logits(merged.eval(), packed, [0]), before[: packed.fetch([0]).targets["labels"].numel()], rtol=1e-2, atol=1e-2
    )
    base: Any = replace(finetune, lora=None).build_model()
    adapted = PeftModel.from_pretrained(base, str(tmp_path / "model" / "adapter")).eval()
    torch.testing.assert_close(
        logits(adapted, packed, [0, 1]), before, rtol=1e-3, atol=1e-2
    )  # a glance at a neighbour moves logits by whole units
    assert AutoTokenizer.from_pretrained(tmp_path / "model").chat_template


def test_a_sample_leaves_training_as_it_was(finetune: LlmFinetune, smollm2: nn.Module) -> None:
    state = torch.get_rng_state()
    text = finetune.sample(smollm2.eval())
    assert text is not None
    assert text.startswith("Hello? -> ")
    assert torch.equal(state, torch.get_rng_state())
    assert replace(finetune, sample_prompt=None).sample(smollm2) is None


def test_a_model_that_is_not_there_is_refused(finetune: LlmFinetune) -> None:
    (problem,) = replace(finetune, model="./nowhere").problems()
    assert problem.key == "recipe.model"
