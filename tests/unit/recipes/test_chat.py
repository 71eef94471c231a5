"""Conversations: what counts, what is refused, and what is held out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recipes import _chat
from recipes.llm_finetune import LlmFinetune

TURNS = [
    {"role": "user", "content": "What is 2+2?"},
    {"role": "assistant", "content": "It is 4."},
    {"role": "user", "content": "And 3+3?"},
    {"role": "assistant", "content": "That is 6."},
]


@pytest.fixture(scope="module")
def tokenizer(finetune: LlmFinetune) -> Any:
    return finetune.tokenizer()


def counted(example: _chat.Example, tokenizer: Any) -> str:
    kept = [t for t, c in zip(example.tokens, example.counted, strict=True) if c]
    return str(tokenizer.decode(kept))


def test_only_the_answers_count_with_their_end_of_turn(tokenizer: Any) -> None:
    (example,) = _chat.encode([TURNS], tokenizer, 256)
    assert counted(example, tokenizer) == "It is 4.<|im_end|>That is 6.<|im_end|>"


def test_the_tokens_are_those_of_the_models_own_template(tokenizer: Any) -> None:
    (example,) = _chat.encode([TURNS], tokenizer, 256)
    assert tokenizer.decode(example.tokens) == tokenizer.apply_chat_template(TURNS, tokenize=False).rstrip()
    asked = tokenizer.apply_chat_template(TURNS[:1], add_generation_prompt=True)["input_ids"]
    assert example.tokens[: len(asked)] == asked
    assert not any(example.counted[: len(asked)])


def test_what_is_too_long_is_cut_and_what_has_no_answer_left_is_dropped(tokenizer: Any) -> None:
    (whole,) = _chat.encode([TURNS], tokenizer, 256)
    first = whole.counted.index(True)
    (cut,) = _chat.encode([TURNS], tokenizer, first + 2)
    assert cut.tokens == whole.tokens[: first + 2]
    assert _chat.encode([TURNS], tokenizer, first) == []


def test_a_template_that_rewrites_earlier_turns_is_refused(tokenizer: Any) -> None:
    class Forgetful:
        def apply_chat_template(self, messages: list[dict[str, str]], **options: Any) -> str:
            return f"{len(messages)}: {messages[-1]['content']}"

    with pytest.raises(ValueError, match="chat template"):
        list(_chat.segments(TURNS, Forgetful()))  # type: ignore[arg-type]


def test_both_formats_of_jsonl_may_be_mixed(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"prompt": "a", "completion": "b"}) + "\n\n" + json.dumps({"messages": TURNS}) + "\n")
    assert _chat.problems_of("recipe.data", path) == []
    assert _chat.read_jsonl(path) == [
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        TURNS,
    ]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"prompt": "a"', "Expecting"),
        ("[1]", "not a JSON object"),
        ('{"prompt": "a"}', "completion"),
        ('{"messages": []}', "messages"),
        ('{"messages": [{"role": "robot", "content": "x"}]}', "robot"),
        ('{"messages": [{"role": "user", "content": "x"}]}', "assistant"),
        ('{"messages": [{"role": "user"}]}', "content"),
    ],
)
def test_a_bad_line_is_named_by_its_number(line: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n' + line + "\n")
    (problem,) = _chat.problems_of("recipe.data", path)
    assert str(problem.value) == f"{path}:2"
    assert says in problem.message


def test_an_empty_or_missing_file_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    assert "empty" in str(_chat.problems_of("recipe.data", empty)[0])
    assert "no such file" in str(_chat.problems_of("recipe.data", tmp_path / "missing.jsonl")[0])


def test_many_bad_lines_are_counted_not_listed(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("{\n" * 20)
    problems = _chat.problems_of("recipe.data", path)
    assert len(problems) == 6
    assert "15 more" in problems[-1].message


def test_the_corpus_holds_each_question_once_and_no_empty_answer() -> None:
    conversations = _chat.corpus()
    questions = [messages[0]["content"] for messages in conversations]
    assert len(questions) == len(set(questions)) > 500
    assert all(messages[1]["content"].strip() for messages in conversations)


def test_holding_out_depends_on_the_text_alone() -> None:
    conversations = _chat.corpus()
    share = sum(_chat.held_out(m, 0.2) for m in conversations) / len(conversations)
    assert share == pytest.approx(0.2, abs=0.05)
    few = [m for m in conversations if _chat.held_out(m, 0.05)]
    assert all(_chat.held_out(m, 0.2) for m in few)
