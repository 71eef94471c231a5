"""What is not told to trackers and terminals."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

HIDDEN = "(not shown)"
_KEY = re.compile(r"(^|[._-])(passw(or)?d|secrets?|token|(api|access|private)_?key|credentials?)($|[._-])")
_LOGIN = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def shown(key: str, value: object) -> str:
    """The value of a configuration key as text, unless the key says that it is a secret (token, but not max_tokens)."""
    return HIDDEN if _KEY.search(key.lower()) else without_login(str(value))


def without_login(url: str) -> str:
    """postgresql://name:password@host/db without what stands before the @."""
    return _LOGIN.sub(HIDDEN, url)


def hidden(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same configuration, with every value as it may be shown."""
    return {name: _hidden(name, value) for name, value in config.items()}


def _hidden(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return hidden(value)
    return value if shown(key, value) == str(value) else shown(key, value)


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys and their values as text; what looks like a secret is not told."""
    for name, value in config.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from flat(value, f"{key}.")
        else:
            yield key, shown(key, value)
