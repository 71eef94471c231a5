"""The corpus, the windows, the sizes and the exported folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recipes import _corpus
from recipes.llm_pretrain import SIZES, LlmPretrain, Windows

TEXT = "the cat sat on the mat and the dog sat on the log\n" * 200


@pytest.fixture()
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LlmPretrain:
    monkeypatch.setenv("TRAINKIT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text").mkdir()
    for name in ("a", "b"):
        (tmp_path / "text" / f"{name}.txt").write_text(TEXT)
    return LlmPretrain(
        size="tiny",
        width=32,
        layers=2,
        heads=2,
        kv_heads=1,
        corpus=str(tmp_path / "text" / "*.txt"),
        vocab=300,
        seq_len=16,
        heldout=0.1,
        sample_prompt="the cat",
    )


def test_the_token_file_gives_the_text_back(task: LlmPretrain) -> None:
    said: list[str] = []
    task.prepare(said.append)
    tokens = np.fromfile(task._cache() / "tokens.bin", np.uint16)
    text = task._tokenizer().decode(tokens.tolist())
    assert text == f"{TEXT}<|endoftext|>" * 2
    assert said
    said.clear()
    task.prepare(said.append)
    assert not said


def test_windows_do_not_overlap_and_predict_the_next_token() -> None:
    tokens = np.arange(101, dtype=np.uint16)
    source = Windows(tokens, 10, 2, 9)
    batch = source.fetch([0, 6])
    assert len(source) == 7
    assert batch.inputs["input_ids"].tolist() == [list(range(20, 30)), list(range(80, 90))]
    assert torch.equal(batch.targets["labels"], batch.inputs["input_ids"] + 1)
    assert (batch.weight, batch.tokens) == (20, 20)


def test_the_end_of_the_text_is_held_out(task: LlmPretrain) -> None:
    task.prepare(lambda text: None)
    data = task.build_data()
    train, heldout = data.train, data.heldout
    if not isinstance(train, Windows) or not isinstance(heldout, Windows):
        raise TypeError(data)
    assert train.first == 0
    assert train.last == heldout.first
    assert len(heldout) == pytest.approx(0.1 * (len(train) + len(heldout)), abs=1)


def test_loss_of_a_fresh_model_is_that_of_guessing(task: LlmPretrain) -> None:
    task.prepare(lambda text: None)
    torch.manual_seed(0)
    model, batch = task.build_model(), task.build_data().train.fetch([0, 1])
    loss = task.loss(model(**batch.inputs), batch.targets).item() / batch.weight
    assert loss == pytest.approx(np.log(300), rel=0.05)


@pytest.mark.parametrize(
    ("size", "parameters"),
    [("125m", 125e6), ("350m", 350e6), ("1b", 1.1e9), ("3b", 3.2e9), ("7b", 6.7e9), ("70b", 69e9)],
)
def test_sizes_have_the_parameters_of_their_name(size: str, parameters: float, task: LlmPretrain) -> None:
    named = replace(task, size=size, width=None, layers=None, heads=None, kv_heads=None, vocab=32000, seq_len=2048)
    with torch.device("meta"):
        count = sum(p.numel() for p in named.build_model().parameters())
    assert count == pytest.approx(parameters, rel=0.15)


def test_the_exported_folder_loads_without_trainkit(task: LlmPretrain, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    task.prepare(lambda text: None)
    model = task.build_model()
    task.export(model, tmp_path / "model")
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer.decode(tokenizer("the dog sat")["input_ids"]) == "the dog sat"
    assert str(task.sample(model)).startswith("the cat")


def test_shapes_that_cannot_be_are_refused_by_name(task: LlmPretrain) -> None:
    assert replace(task, size="huge").problems()[0].key == "recipe.size"
    assert [p.key for p in replace(task, heads=3).problems()] == ["recipe.heads"]
    assert [p.key for p in replace(task, heads=4, kv_heads=3).problems()] == ["recipe.kv_heads"]
    assert [p.key for p in replace(task, corpus="/nowhere/*.txt").problems()] == ["recipe.corpus"]
    assert "tiny" in SIZES


@pytest.mark.parametrize("corpus", ["kjv", "stdlib"])
def test_the_shipped_corpora_are_text_in_a_fixed_order(corpus: str) -> None:
    assert not _corpus.problems_of("recipe.corpus", corpus)
    first = [next(_corpus.pieces(corpus)) for _ in range(2)]
    assert first[0] == first[1]
    assert first[0][0]
    if corpus == "kjv":
        assert sum(last for _, last in _corpus.pieces(corpus)) == 1189  # chapters of the Bible


def test_the_parts_of_a_sequence_are_all_of_it_and_know_where_they_are(task: LlmPretrain) -> None:
    batch = Windows(np.arange(100, dtype=np.uint16), task.seq_len, 0, 5).fetch([0, 3])
    shape = task.model_shape()
    assert shape is not None
    assert shape.sequence_length == batch.inputs["input_ids"].shape[1]
    parts = [task.sequence_part(batch, part, 4) for part in range(4)]
    assert torch.equal(torch.cat([p.inputs["input_ids"] for p in parts], 1), batch.inputs["input_ids"])
    assert torch.equal(torch.cat([p.targets["labels"] for p in parts], 1), batch.targets["labels"])
    places = torch.cat([p.inputs["position_ids"] for p in parts], 1)
    assert places.tolist() == [list(range(shape.sequence_length))] * 2
    assert {(p.weight, p.tokens) for p in parts} == {(batch.weight, batch.tokens)}


def test_the_shape_told_before_launch_is_that_of_the_model(task: LlmPretrain) -> None:
    model: Any = task.build_model()
    shape = task.model_shape()
    assert shape is not None
    assert shape.layers == len(task.blocks(model)) == 2
    assert shape.heads == (model.config.num_attention_heads, model.config.num_key_value_heads) == (2, 1)
    assert replace(task, size="huge").model_shape() is None  # problems() refuses it at the same time
