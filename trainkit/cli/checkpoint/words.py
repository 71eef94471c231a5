"""The words after `checkpoint NAME`."""

from __future__ import annotations

from collections.abc import Sequence

from trainkit.cli.checkpoint import SUBCOMMANDS
from trainkit.cli.words import Choices, split
from trainkit.errors import ConfigError, Problem


def parse(
    command: str,
    words: Sequence[str],
    count: int,
    choices: Choices | None = None,
    flags: Sequence[str] = (),
    more: bool = False,
) -> tuple[list[str], dict[str, str]]:
    """The `count` words without hyphens (with `more`, at least so many), and the options given. Raises ConfigError with
    all that is wrong."""
    plain, given, wrong = split(words, choices or {}, flags)
    if len(plain) < count or (len(plain) > count and not more):
        found = f"there are {len(plain)} ({' '.join(plain)})" if plain else "there are none"
        words_wanted = "1 word is" if count == 1 else f"{count} words are"
        wrong.append(Problem("", "", f"{words_wanted} wanted, {found}", SUBCOMMANDS.call(command)))
    if wrong:
        raise ConfigError(wrong)
    return plain, given
