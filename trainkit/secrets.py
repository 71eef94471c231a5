"""What is not told to trackers and terminals."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

HIDDEN = "(not shown)"
_NAMES = r"passw(or)?d|secrets?|token|(api|access|private)_?key|credentials?"
_KEY = re.compile(rf"(^|[._-])({_NAMES})($|[._-])")
_LOGIN = re.compile(r"(?<=://)[^/?#\s]+(?=@)")
_QUERY = re.compile(rf"(?<=[?&])((?:[\w.-]+[._-])?(?:{_NAMES})(?:[._-][\w.-]+)?=)[^&#\s]+", re.IGNORECASE)


def shown(key: str, value: object) -> str:
    """The value of a configuration key as text, unless the key says that it is a secret (token, but not max_tokens)."""
    return str(_shown(key, value))


def without_login(text: str) -> str:
    """postgresql://name:password@host/db without what stands before the @, or in a query (?password=...); in any text
    that has such a URL in it."""
    return _QUERY.sub(rf"\1{HIDDEN}", _LOGIN.sub(HIDDEN, text))


def shown_word(word: str) -> str:
    """A word of the command line, key=value, as it may be shown."""
    key, equals, value = word.partition("=")
    return f"{key}={shown(key, value)}" if equals else without_login(word)


def hidden(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same configuration, with every value as it may be shown."""
    return {name: _shown(name, value) for name, value in config.items()}


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys and their values as text; what looks like a secret is not told."""
    for name, value in config.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and not _KEY.search(str(name).lower()):
            yield from flat(value, f"{key}.")
        else:
            yield key, shown(key, value)


def _shown(key: str, value: Any) -> Any:
    """Whatever it is made of: a secret may be deep in a list, and what a secret key has below it is secret too."""
    if _KEY.search(str(key).lower()):
        return HIDDEN
    if isinstance(value, Mapping):
        return hidden(value)
    if isinstance(value, list | tuple):
        return [_shown("", item) for item in value]
    return without_login(value) if isinstance(value, str) else value
