"""config recipe=NAME [key=value ...]: the resolved configuration."""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from trainkit.cli.terminal import say
from trainkit.config import compose
from trainkit.errors import EXIT_DONE
from trainkit.secrets import hidden


def main(words: Sequence[str]) -> int:
    say(yaml.safe_dump(hidden(compose(words)), sort_keys=False).rstrip())
    return EXIT_DONE
