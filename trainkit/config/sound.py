"""Words to settings, or all that is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence

from trainkit.config.build import build
from trainkit.config.compose import draft
from trainkit.errors import ConfigError
from trainkit.settings import Settings


def sound(words: Sequence[str]) -> Settings:
    """Of words that are right each by itself; whether they go together, and with the machine, says `check`. Raises
    ConfigError."""
    config, problems = draft(words)
    settings, more = build(config)
    if settings is None or problems or more:
        raise ConfigError([*problems, *more])
    return settings
