"""The words after a command: what stands in its place, and what begins with a hyphen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trainkit.config.suggest import suggest
from trainkit.errors import ConfigError, Problem

Choices = Mapping[str, Sequence[str] | None]
"""Options with a value; None where it can be any text."""


def split(
    words: Sequence[str], choices: Choices, flags: Sequence[str] = ()
) -> tuple[list[str], dict[str, str], list[Problem]]:
    """The words without hyphens, the options given (`--format hf` or `--format=hf`; a flag has the value ''), and what
    is wrong with these."""
    plain, given, wrong, left = list[str](), dict[str, str](), list[Problem](), [*words]
    while left:
        word = left.pop(0)
        name, equals, value = word.partition("=")
        if word in flags:
            given[word] = ""
        elif not word.startswith("--"):
            plain.append(word)
        elif name in choices:
            value = value if equals else (left.pop(0) if left else "")
            given[name] = value
            allowed = choices[name]
            if not value or (allowed is not None and value not in allowed):
                hint = suggest(value, allowed or ())
                wrong.append(Problem(name, value, f"should be {' | '.join(allowed or ('a value',))}", hint))
        else:
            wrong.append(Problem("", "", f"there is no option {name} here", suggest(name, [*choices, *flags])))
    return plain, given, wrong


def parse(words: Sequence[str], choices: Choices, flags: Sequence[str] = ()) -> tuple[list[str], dict[str, str]]:
    """The same where all is well. Raises ConfigError with all that is wrong."""
    plain, given, wrong = split(words, choices, flags)
    if wrong:
        raise ConfigError(wrong)
    return plain, given


def whole(given: Mapping[str, str], name: str, least: int) -> int | None:
    """The number that an option is, None where it is not given. Raises ConfigError."""
    if name not in given:
        return None
    if not given[name].isdecimal() or int(given[name]) < least:
        raise ConfigError([Problem(name, given[name], f"should be a whole number from {least} on")])
    return int(given[name])
