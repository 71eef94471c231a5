"""Conversations: read from JSONL or from the shipped corpus, and turned into tokens of which the answers count."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from trainkit.errors import ConfigError, Problem

try:
    from yaml import CSafeLoader as Loader
except ImportError:  # PyYAML built without libyaml
    from yaml import SafeLoader as Loader  # type: ignore[assignment]

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = list[dict[str, str]]
ROLES = ("system", "user", "assistant", "tool")
MOST_PROBLEMS = 5
AT_ONCE = 1000  # conversations tokenised in one call


# ------------------------------------------------------------------------------------------- reading


def corpus() -> list[Messages]:
    """First question and first answer of the English conversations in the PyPI package chatterbot-corpus (BSD), each
    question once."""
    package = importlib.util.find_spec("chatterbot_corpus")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("chatterbot-corpus is not installed: pip install 'trainkit[llm]'")
    pairs: dict[str, str] = {}
    for path in sorted((Path(package.origin).parent / "data" / "english").glob("*.yml")):
        for lines in yaml.load(path.read_text(encoding="utf-8"), Loader=Loader)["conversations"]:
            if len(lines) < 2 or not all(isinstance(line, str) for line in lines[:2]):
                continue
            question, answer = lines[0].strip(), lines[1].strip()
            if len(question) > 1 and answer:  # one entry asks 'I'
                pairs.setdefault(question, answer)
    return [_pair(question, answer) for question, answer in pairs.items()]


def read_jsonl(path: Path) -> tuple[list[Messages], list[str]]:
    """The conversations of a JSONL file, and 'NUMBER: what is wrong' for every line that is none.

    Only a line feed ends a line: text in JSON may hold the other characters that str.splitlines() takes for one.
    """
    conversations, faults = [], []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                conversations.append(_messages(json.loads(line.strip())))
            except json.JSONDecodeError as error:
                faults.append(f"{number}: is not JSON: {error.msg} at column {error.colno}")
            except ValueError as error:
                faults.append(f"{number}: {error}")
    return conversations, faults


def problems_of(key: str, path: Path) -> list[Problem]:
    """What is wrong with a JSONL file, the first few lines of it by number."""
    if not path.is_file():
        return [Problem(key, path, "there is no such file", 'JSONL: {"prompt": ..., "completion": ...} per line')]
    try:
        conversations, faults = read_jsonl(path)
    except OSError as error:
        return [Problem(key, path, f"cannot be read: {error.strerror}")]
    shown = [fault.partition(": ") for fault in faults[:MOST_PROBLEMS]]
    problems = [Problem(key, f"{path}:{number}", message) for number, _, message in shown]
    if len(faults) > MOST_PROBLEMS:
        problems.append(Problem(key, path, f"{len(faults) - MOST_PROBLEMS} more lines cannot be read"))
    if not faults and len(conversations) < 2:
        found = "holds one example only" if conversations else "is empty"
        problems.append(Problem(key, path, f"the data set {found}", "at least one to train on and one to hold out"))
    return problems


def _messages(row: Any) -> Messages:
    """One line of a file as a conversation. Raises ValueError that says what is wrong."""
    if not isinstance(row, dict):
        raise ValueError("is not a JSON object")
    if "messages" not in row:
        prompt, completion = row.get("prompt"), row.get("completion")
        if not isinstance(prompt, str) or not isinstance(completion, str):
            raise ValueError(f'needs "prompt" and "completion" (text), or "messages"; its keys are {list(row)}')
        return _pair(prompt, completion)
    messages = row["messages"]
    if not isinstance(messages, list) or not messages:
        raise ValueError('"messages" is not a list with something in it')
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise ValueError('a message needs "role" and "content", both text')
        if message.get("role") not in ROLES:
            raise ValueError(f"role {message.get('role')!r} is none of {', '.join(ROLES)}")
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        raise ValueError("no assistant message: there is nothing to learn")
    if roles[0] == "assistant":
        raise ValueError("the first message is the assistant's: there is nothing to answer")
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def _pair(prompt: str, completion: str) -> Messages:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]


def held_out(conversations: Sequence[Messages], size: float) -> list[bool]:
    """Which conversations are held out: the `size` (a fraction, or from 1 on a number) whose text hashes lowest.

    So it depends on neither their order nor the process, and equal conversations stay together.
    """
    hashes = [hashlib.blake2b(json.dumps(messages).encode(), digest_size=8).digest() for messages in conversations]
    count = max(1, round(size if size >= 1 else size * len(hashes)))
    highest = sorted(hashes)[min(count, len(hashes)) - 1]
    return [value <= highest for value in hashes]


# ------------------------------------------------------------------------------------------ encoding


@dataclass(frozen=True, slots=True)
class Text:
    """A conversation as the model's own chat template writes it; `answers`: where each begins and ends in it."""

    text: str
    answers: list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Example:
    """Tokens [n] of one conversation, and which of them count: those of the answers, their end-of-turn included."""

    tokens: np.ndarray[Any, np.dtype[np.int32]]
    counted: np.ndarray[Any, np.dtype[np.bool_]]


def render(conversations: Sequence[Messages], tokenizer: PreTrainedTokenizerBase) -> list[Text]:
    """Raises ConfigError for a conversation that the template refuses or cannot be cut into turns."""
    from jinja2 import TemplateError

    texts = []
    for number, messages in enumerate(conversations, 1):
        try:
            texts.append(_render(messages, tokenizer))
        except (TemplateError, ValueError) as error:
            hint = "of the data set; the model's own chat template decides which turns may follow each other"
            raise ConfigError([Problem("recipe.data", f"conversation {number}", str(error), hint)]) from error
    return texts


def _render(messages: Messages, tokenizer: PreTrainedTokenizerBase) -> Text:
    """An answer begins where the template's own prompt for it ends, as when the model is asked."""
    text, answers = "", []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _apply(tokenizer, messages[:i], ask=True)
        after = _apply(tokenizer, messages[: i + 1], ask=False)
        if not before.startswith(text) or not after.startswith(before):
            raise ValueError("the chat template changes earlier turns, so that answers cannot be told from the rest")
        text = before + after[len(before) :].rstrip()  # what follows the end of turn is not the model's to say
        answers.append((len(before), len(text)))
    return Text(text, answers)


def _apply(tokenizer: PreTrainedTokenizerBase, messages: Messages, ask: bool) -> str:
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)
    if not isinstance(text, str):
        raise TypeError("apply_chat_template(tokenize=False) returns text")
    return text


def encode(texts: Sequence[Text], tokenizer: PreTrainedTokenizerBase) -> Iterator[Example]:
    """Texts as examples, whole. The tokens before an answer are those that the model sees when it is asked for one."""
    for first in range(0, len(texts), AT_ONCE):
        some = texts[first : first + AT_ONCE]
        encoded = tokenizer([t.text for t in some], add_special_tokens=False, return_offsets_mapping=True)
        for text, ids, offsets in zip(some, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            ends = np.array(offsets, np.int64).reshape(-1, 2)[:, 1]
            if np.isin([start for start, _ in text.answers], ends).all():
                counted = np.zeros(len(ends), np.bool_)
                for start, end in text.answers:
                    counted |= (start < ends) & (ends <= end)
                yield Example(np.array(ids, np.int32), counted)
            else:  # a token would span the end of the question and the indent of an answer
                yield _in_pieces(text, tokenizer)


def _in_pieces(text: Text, tokenizer: PreTrainedTokenizerBase) -> Example:
    """Tokenised apart, answers and what is between them; by turns, the first piece is no answer."""
    bounds = [0, *(bound for answer in text.answers for bound in answer)]
    ids = tokenizer([text.text[a:b] for a, b in pairwise(bounds)], add_special_tokens=False)["input_ids"]
    counted = [np.full(len(piece), i % 2 == 1) for i, piece in enumerate(ids)]
    return Example(np.concatenate([np.array(piece, np.int32) for piece in ids]), np.concatenate(counted))


def shorten(examples: Iterable[Example], longest: int) -> tuple[list[Example], int, int]:
    """Examples of at most `longest` tokens: what is over is cut off at the end, and an example whose answers all lie
    there is left out. Also how many were cut, and how many left out."""
    kept, cut, dropped = [], 0, 0
    for example in examples:
        short = Example(example.tokens[:longest], example.counted[:longest])
        if not short.counted[1:].any():
            dropped += 1
            continue
        cut += len(short.tokens) < len(example.tokens)
        kept.append(short)
    return kept, cut, dropped
