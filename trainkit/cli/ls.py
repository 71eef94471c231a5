"""ls: what there is to choose from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainkit.cli.terminal import say, show_rows, title
from trainkit.config import components, describe
from trainkit.config.bundle import GROUPS, bundle
from trainkit.errors import EXIT_DONE, ConfigError, Problem


def main(words: Sequence[str]) -> int:
    """All groups, or those that `words` name."""
    unknown = [word for word in words if word not in GROUPS]
    if unknown:
        raise ConfigError([Problem("", "", f"ls {word}: there are {', '.join(GROUPS)}") for word in unknown])
    found = {group: components(group) for group in words or GROUPS}
    width = 2 + max((len(name) for choices in found.values() for name in choices), default=0)
    for group, choices in found.items():
        title(f"{group}=")
        show_rows([(name, _line(path)) for name, path in choices.items()], width)
        say("")
    say("python -m trainkit recipe=NAME strategy=NAME ...   (--help explains)")
    return EXIT_DONE


def _line(path: Path) -> str:
    mine = "" if path.is_relative_to(bundle("conf")) else "  (yours)"
    return f"{describe(path)}{mine}"
