"""The words after a subcommand: what stands in its place, and what begins with two hyphens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trainkit.cli.checkpoint import SUBCOMMANDS
from trainkit.config.suggest import suggest
from trainkit.errors import ConfigError, Problem

Choices = Mapping[str, Sequence[str] | None]
"""Options with a value; None where it can be any text."""


def parse(
    command: str,
    words: Sequence[str],
    count: int,
    choices: Choices | None = None,
    flags: Sequence[str] = (),
    more: bool = False,
) -> tuple[list[str], dict[str, str]]:
    """The `count` words without hyphens (with `more`, at least so many), and the options given: `--format hf` or
    `--format=hf`; a flag has the value ''. Raises ConfigError with all that is wrong."""
    known, plain, given, wrong = choices or {}, [], {}, []
    left = list(words)
    while left:
        word = left.pop(0)
        name, equals, value = word.partition("=")
        if not word.startswith("--"):
            plain.append(word)
        elif name in flags and not equals:
            given[name] = ""
        elif name in known:
            value = value if equals else (left.pop(0) if left else "")
            given[name] = value
            allowed = known[name]
            if not value or (allowed is not None and value not in allowed):
                hint = suggest(value, allowed or ())
                wrong.append(Problem(name, value, f"should be {' | '.join(allowed or ('a value',))}", hint))
        else:
            wrong.append(Problem("", "", f"there is no option {name} here", suggest(name, [*known, *flags])))
    if len(plain) < count or (len(plain) > count and not more):
        found = f"there are {len(plain)} ({' '.join(plain)})" if plain else "there are none"
        words_wanted = "1 word is" if count == 1 else f"{count} words are"
        wrong.append(Problem("", "", f"{words_wanted} wanted, {found}", f"checkpoint {SUBCOMMANDS[command][1]}"))
    if wrong:
        raise ConfigError(wrong)
    return plain, given
