"""The recipe on the real model: what it trains on, what it refuses, and what it leaves behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from recipes import _chat, _smollm2
from recipes._packing import Packed
from recipes.llm_finetune import LlmFinetune, Lora
from trainkit.errors import ConfigError, TrainkitError


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


def test_the_default_data_is_split_without_overlap(finetune: LlmFinetune) -> None:
    data = finetune.build_data()
    train, heldout = data.train, data.heldout
    if not isinstance(train, Packed) or not isinstance(heldout, Packed):
        raise TypeError(data)
    seen = [{tuple(p.fetch([i]).inputs["input_ids"][0].tolist()) for i in range(len(p))} for p in (train, heldout)]
    assert not seen[0] & seen[1]
    assert len(heldout) == round(0.06 * (len(train) + len(heldout)))


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
    first = packed.fetch([0]).targets["labels"].numel()
    torch.testing.assert_close(logits(merged.eval(), packed, [0]), before[:first], rtol=1e-2, atol=1e-2)
    base: Any = replace(finetune, lora=None).build_model()
    adapted = PeftModel.from_pretrained(base, str(tmp_path / "model" / "adapter")).eval()
    torch.testing.assert_close(logits(adapted, packed, [0, 1]), before, rtol=1e-3, atol=1e-2)
    assert AutoTokenizer.from_pretrained(tmp_path / "model").chat_template


def test_a_sample_leaves_training_as_it_was(finetune: LlmFinetune, smollm2: nn.Module) -> None:
    state = torch.get_rng_state()
    text = finetune.sample(smollm2.eval())
    assert text is not None
    assert text.startswith("Hello? -> ")
    assert torch.equal(state, torch.get_rng_state())
    assert replace(finetune, sample_prompt=None).sample(smollm2) is None


def test_the_adapter_begins_the_same_for_the_same_seed(finetune: LlmFinetune, smollm2: nn.Module) -> None:
    torch.manual_seed(0)  # as the fixture
    again = finetune.build_model()
    first, second = ({n: p for n, p in m.named_parameters() if "lora_" in n} for m in (smollm2, again))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_base_model_without_a_chat_template_gets_a_plain_one_and_keeps_it(
    finetune: LlmFinetune, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    base = tiny(tmp_path / "base")
    task = replace(finetune, model=str(base), lora=None)
    assert not task.problems()
    tokenizer = task.tokenizer()
    turn = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    (example,) = _chat.encode(_chat.render([turn], tokenizer), tokenizer)
    assert tokenizer.decode(example.tokens.tolist()) == "user:\nHi\n\nassistant:\nHo<|im_end|>"
    assert tokenizer.decode(example.tokens[example.counted].tolist()) == "Ho<|im_end|>"
    task.export(task.build_model(), tmp_path / "model")
    assert AutoTokenizer.from_pretrained(tmp_path / "model").chat_template == tokenizer.chat_template


def test_what_cannot_be_is_refused_by_name(
    finetune: LlmFinetune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # `make run` leaves such a folder in the checkout
    assert not finetune.problems()
    assert [p.key for p in replace(finetune, model="./nowhere").problems()] == ["recipe.model"]
    assert [p.key for p in replace(finetune, model="runs/first/model").problems()] == ["recipe.model"]
    assert [p.key for p in replace(finetune, model=str(tmp_path)).problems()] == ["recipe.model"]
    assert [p.key for p in replace(finetune, heldout=2.5).problems()] == ["recipe.heldout"]
    assert [p.key for p in replace(finetune, heldout=10_000).problems()] == ["recipe.heldout"]
    both = replace(finetune, heldout=2.5, data=str(tmp_path / "no.jsonl"), model="./nowhere").problems()
    assert [p.key for p in both] == ["recipe.model", "recipe.heldout", "recipe.data"]
    assert [p.key for p in replace(finetune, data=str(tmp_path / "no.jsonl")).problems()] == ["recipe.data"]
    assert not replace(finetune, model="org/name").problems()  # the hub is asked when the run starts


def test_nothing_left_to_train_on_is_refused(finetune: LlmFinetune, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "p", "completion": "c"}\n' * 3)
    with pytest.raises(ConfigError, match=r"recipe\.heldout"):
        replace(finetune, data=str(path)).build_data()


def test_layers_that_the_model_does_not_have_are_refused(finetune: LlmFinetune, tmp_path: Path) -> None:
    lora = Lora(r=4, alpha=8.0, dropout=0.0, targets=["nonsense"])
    with pytest.raises(ConfigError, match=r"recipe\.lora\.targets.*nonsense"):
        replace(finetune, model=str(tiny(tmp_path / "base")), lora=lora).build_model()


def test_a_hub_id_that_the_hub_does_not_give_is_told(finetune: LlmFinetune, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(TrainkitError, match=r"recipe\.model=org/name: no folder here") as raised:
        replace(finetune, model="org/name").prepare(lambda text: None)
    assert str(raised.value).endswith("recipe.model=smollm2")


def tiny(folder: Path) -> Path:
    """A random model of the same vocabulary, whose tokenizer has no chat template."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer: Any = AutoTokenizer.from_pretrained(_smollm2.converted())
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_the_shape_told_before_launch_is_that_of_the_model(finetune: LlmFinetune, smollm2: Any) -> None:
    shape = finetune.model_shape()
    assert shape is not None
    assert (shape.layers, shape.heads) == (30, (9, 3))
    assert shape.layers == len(finetune.blocks(smollm2))


def test_the_plan_of_an_adapted_model_divides_base_and_adapter_on_the_same_side(
    finetune: LlmFinetune, smollm2: Any
) -> None:
    plan, modules = finetune.tensor_plan(smollm2), dict(smollm2.named_modules())
    assert plan is not None
    assert set(plan) <= set(modules)
    shape = finetune.model_shape()
    assert shape is not None
    assert shape.sequence is any(style.startswith("sequence") for style in plan.values())
    layer = "base_model.model.model.layers.3"
    assert {name: style for name, style in plan.items() if name.startswith(f"{layer}.mlp.")} == {
        f"{layer}.mlp.gate_proj.base_layer": "colwise",
        f"{layer}.mlp.gate_proj.lora_B.default": "colwise",
        f"{layer}.mlp.up_proj.base_layer": "colwise",
        f"{layer}.mlp.up_proj.lora_B.default": "colwise",
        f"{layer}.mlp.down_proj.base_layer": "rowwise",
        f"{layer}.mlp.down_proj.lora_A.default": "rowwise",
    }


def test_a_model_without_a_readable_config_has_no_shape_yet(finetune: LlmFinetune, tmp_path: Path) -> None:
    other = replace(finetune, model=str(tmp_path))
    assert other.model_shape() is None
    (tmp_path / "config.json").write_text("{")
    assert other.model_shape() is None
    (tmp_path / "config.json").write_text('{"n_layer": 12}')
    assert other.model_shape() is None
