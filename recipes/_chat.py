"""Conversations: read from JSONL or from the shipped corpus, and turned into tokens of which the answers count."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from trainkit.errors import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = list[dict[str, str]]
ROLES = ("system", "user", "assistant", "tool")
MOST_PROBLEMS = 5


# ------------------------------------------------------------------------------------------- reading


def corpus() -> list[Messages]:
    """First question and first answer of the English conversations in the PyPI package chatterbot-corpus (BSD), each
    question once."""
    package = importlib.util.find_spec("chatterbot_corpus")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("chatterbot-corpus is not installed: pip install 'trainkit[llm]'")
    pairs: dict[str, str] = {}
    for path in sorted((Path(package.origin).parent / "data" / "english").glob("*.yml")):
        for lines in yaml.load(path.read_text(), Loader=yaml.CSafeLoader)["conversations"]:
            if len(lines) >= 2 and all(isinstance(line, str) and line.strip() for line in lines[:2]):
                pairs.setdefault(lines[0].strip(), lines[1].strip())
    return [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in pairs.items()]


def read_jsonl(path: Path) -> list[Messages]:
    """The conversations of a file that `problems_of` found nothing wrong with."""
    return [_messages(json.loads(line)) for line in path.read_text().splitlines() if line.strip()]


def problems_of(key: str, path: Path) -> list[Problem]:
    """What is wrong with a JSONL file, the first few lines of it by number."""
    if not path.is_file():
        return [Problem(key, path, "there is no such file", 'JSONL: {"prompt": ..., "completion": ...} per line')]
    problems, good = [], 0
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            _messages(json.loads(line))
            good += 1
        except ValueError as error:  # JSONDecodeError is one too
            problems.append(Problem(key, f"{path}:{number}", str(error)))
    if len(problems) > MOST_PROBLEMS:
        more = len(problems) - MOST_PROBLEMS
        problems = [*problems[:MOST_PROBLEMS], Problem(key, path, f"{more} more lines cannot be read")]
    if not problems and good < 2:
        hint = "at least one to train on and one to hold out"
        problems.append(Problem(key, path, f"the data set holds {good} example(s)" if good else "is empty", hint))
    return problems


def _messages(row: Any) -> Messages:
    """One line of a file as a conversation. Raises ValueError that says what is wrong."""
    if not isinstance(row, dict):
        raise ValueError("is not a JSON object")
    if "messages" not in row:
        row = {"messages": _pair(row)}
    messages = row["messages"]
    if not isinstance(messages, list) or not messages:
        raise ValueError('"messages" is not a list with something in it')
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise ValueError('a message needs "role" and "content", both text')
        if message.get("role") not in ROLES:
            raise ValueError(f"role {message.get('role')!r} is none of {', '.join(ROLES)}")
    if not any(message["role"] == "assistant" for message in messages):
        raise ValueError("no assistant message: there is nothing to learn")
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def _pair(row: dict[str, Any]) -> Messages:
    prompt, completion = row.get("prompt"), row.get("completion")
    if not isinstance(prompt, str) or not isinstance(completion, str):
        raise ValueError('needs "prompt" and "completion" (text), or "messages"')
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]


# ------------------------------------------------------------------------------------------ encoding


@dataclass(frozen=True, slots=True)
class Example:
    """Tokens of one conversation, and which of them count: those of the answers, their end-of-turn included."""

    tokens: list[int]
    counted: list[bool]


def segments(messages: Messages, tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[str, bool]]:
    """The conversation as the model's own chat template writes it, cut where answers begin and end.

    Cutting there gives the tokens that the model sees when it is asked: the template's generation prompt ends where
    an answer begins. Raises ValueError for a template that rewrites earlier turns.
    """
    done = ""
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _render(tokenizer, messages[:i], True)
        after = _render(tokenizer, messages[: i + 1], False)
        if not before.startswith(done) or not after.startswith(before):
            raise ValueError("the chat template changes earlier turns, so that answers cannot be told from the rest")
        answer = after[len(before) :]
        yield before[len(done) :], False
        yield answer.rstrip(), True
        done = before + answer.rstrip()


def _render(tokenizer: PreTrainedTokenizerBase, messages: Messages, ask: bool) -> str:
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)
    if not isinstance(text, str):
        raise TypeError("apply_chat_template(tokenize=False) returns text")
    return text


def encode(conversations: Sequence[Messages], tokenizer: PreTrainedTokenizerBase, longest: int) -> list[Example]:
    """Conversations as examples of at most `longest` tokens: what is over is cut off at the end, and a conversation
    whose answers all lie there is left out."""
    pieces = [list(segments(messages, tokenizer)) for messages in conversations]
    texts = [text for piece in pieces for text, _ in piece]
    encoded = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])
    examples = []
    for piece in pieces:
        tokens: list[int] = []
        counted: list[bool] = []
        for _, counts in piece:
            ids = next(encoded)
            tokens += ids
            counted += [counts] * len(ids)
        example = Example(tokens[:longest], counted[:longest])
        if any(example.counted[1:]):
            examples.append(example)
    return examples


def held_out(messages: Messages, fraction: float) -> bool:
    """Whether a conversation is held out: decided by its text, so that neither order nor additions move others."""
    digest = hashlib.blake2b(json.dumps(messages).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < fraction * 2**64
