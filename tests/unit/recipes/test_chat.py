"""Conversations: what counts, what is refused, and what is held out."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from recipes import _chat
from recipes.llm_finetune import LlmFinetune
from trainkit.errors import ConfigError

TURNS = [
    {"role": "user", "content": "What is 2+2?"},
    {"role": "assistant", "content": "It is 4."},
    {"role": "user", "content": "And 3+3?"},
    {"role": "assistant", "content": "That is 6."},
]


@pytest.fixture(scope="module")
def tokenizer(finetune: LlmFinetune) -> Any:
    return finetune.tokenizer()


def encode(messages: _chat.Messages, tokenizer: Any) -> _chat.Example:
    (example,) = _chat.encode(_chat.render([messages], tokenizer), tokenizer)
    return example


def counted(example: _chat.Example, tokenizer: Any) -> str:
    return str(tokenizer.decode(example.tokens[example.counted]))


def test_only_the_answers_count_with_their_end_of_turn(tokenizer: Any) -> None:
    assert counted(encode(TURNS, tokenizer), tokenizer) == "It is 4.<|im_end|>That is 6.<|im_end|>"


@pytest.mark.parametrize(
    "answer", ["", " ", "\n\n", "  two spaces", "ends in lines\n\n", "\U0001f642 é 漢字", "12 345"]
)
def test_every_token_of_an_answer_counts_whatever_it_begins_and_ends_with(answer: str, tokenizer: Any) -> None:
    example = encode([TURNS[0], {"role": "assistant", "content": answer}, TURNS[2]], tokenizer)
    assert counted(example, tokenizer) == f"{answer}<|im_end|>"
    asked = tokenizer.apply_chat_template([TURNS[0]], add_generation_prompt=True)["input_ids"]
    assert example.tokens.tolist()[: len(asked)] == asked


def test_the_tokens_are_those_of_the_models_own_template(tokenizer: Any) -> None:
    example = encode(TURNS, tokenizer)
    whole = tokenizer.apply_chat_template(TURNS)["input_ids"]
    assert tokenizer.decode(whole[-1]) == "\n"  # after the end of turn: not the model's to say
    assert example.tokens.tolist() == whole[:-1]
    asked = tokenizer.apply_chat_template(TURNS[:1], add_generation_prompt=True)["input_ids"]
    assert example.tokens[: len(asked)].tolist() == asked
    assert example.counted.tolist().index(True) == len(asked)


def test_what_is_too_long_is_cut_and_what_has_no_answer_left_is_dropped(tokenizer: Any) -> None:
    whole = encode(TURNS, tokenizer)
    first = whole.counted.tolist().index(True)
    (cut,), *told = _chat.shorten([whole], first + 2)
    assert cut.tokens.tolist() == whole.tokens.tolist()[: first + 2]
    assert told == [1, 0]
    assert _chat.shorten([whole], first) == ([], 0, 1)
    assert _chat.shorten([whole], len(whole.tokens))[1:] == (0, 0)


def test_many_conversations_keep_their_order(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_chat, "AT_ONCE", 2)
    texts = _chat.render([[TURNS[0], {"role": "assistant", "content": f"n{i}"}] for i in range(5)], tokenizer)
    answers = [counted(example, tokenizer) for example in _chat.encode(texts, tokenizer)]
    assert answers == [f"n{i}<|im_end|>" for i in range(5)]


class Forgetful:
    """A chat template that shows the last turn only."""

    def apply_chat_template(self, messages: _chat.Messages, **options: Any) -> str:
        return f"{len(messages)}: {messages[-1]['content']}"


def test_a_template_that_rewrites_earlier_turns_is_refused() -> None:
    with pytest.raises(ConfigError, match="conversation 1: the chat template changes earlier turns"):
        _chat.render([TURNS], Forgetful())  # type: ignore[arg-type]


def test_a_conversation_that_the_template_refuses_is_named(tokenizer: Any) -> None:
    picky = copy.deepcopy(tokenizer)
    picky.chat_template = "{% if messages|length > 2 %}{{ raise_exception('one turn only') }}{% endif %}a"
    with pytest.raises(ConfigError, match="conversation 2: one turn only"):
        _chat.render([TURNS[:2], TURNS], picky)


def test_both_formats_of_jsonl_may_be_mixed(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"prompt": "a", "completion": "b"}) + "\n\n" + json.dumps({"messages": TURNS}) + "\n")
    assert _chat.problems_of("recipe.data", path) == []
    pair = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert _chat.read_jsonl(path) == ([pair, TURNS], [])


def test_only_a_line_feed_ends_a_line_and_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    answer = "one\u2028two\x85three"
    line = json.dumps({"prompt": "a", "completion": answer}, ensure_ascii=False)
    path.write_bytes(b"\xef\xbb\xbf" + f"{line}\r\n{line}".encode())
    conversations, faults = _chat.read_jsonl(path)
    assert [messages[1]["content"] for messages in conversations] == [answer, answer]
    assert faults == []


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'{"prompt": "a"', "is not JSON: Expecting ',' delimiter at column 15"),
        (b'{"prompt": "\xff"}', "can't decode byte"),
        (b"[1]", "not a JSON object"),
        (b'{"prompt": "a", "answer": "b"}', "its keys are ['prompt', 'answer']"),
        (b'{"prompt": "a", "completion": 1}', "text"),
        (b'{"messages": []}', "messages"),
        (b'{"messages": [{"role": "robot", "content": "x"}]}', "robot"),
        (b'{"messages": [{"role": "user", "content": "x"}]}', "no assistant message"),
        (b'{"messages": [{"role": "assistant", "content": "x"}]}', "nothing to answer"),
        (b'{"messages": [{"role": "user"}]}', "content"),
    ],
)
def test_a_bad_line_is_named_by_its_number(line: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_bytes(b'{"prompt": "a", "completion": "b"}\n\n' + line + b"\n")
    (problem,) = _chat.problems_of("recipe.data", path)
    assert str(problem.value) == f"{path}:3"
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


def test_what_is_held_out_depends_on_the_text_alone() -> None:
    conversations = _chat.corpus()
    held = _chat.held_out(conversations, 0.2)
    assert sum(held) == round(0.2 * len(conversations))
    assert _chat.held_out(conversations[::-1], 0.2) == held[::-1]
    fewer = _chat.held_out(conversations, 10)
    assert sum(fewer) == 10
    assert all(more for more, less in zip(held, fewer, strict=True) if less)


def test_equal_conversations_are_held_out_together_and_never_none() -> None:
    held = _chat.held_out([TURNS, TURNS[:2], TURNS, TURNS[:2]], 0.01)
    assert held in ([True, False] * 2, [False, True] * 2)
