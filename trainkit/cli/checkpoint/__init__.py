"""checkpoint inspect|verify|export|import: what a checkpoint holds, whether it is whole, and its way out and in.

A subcommand is the function `main(words) -> exit code` of its module, imported when it is called.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from trainkit.config.suggest import suggest
from trainkit.errors import ConfigError, Problem

SUBCOMMANDS = {
    "inspect": ("inspect", "inspect RUN|CHECKPOINT [--tensors]"),
    "verify": ("verify", "verify RUN|CHECKPOINT"),
    "export": ("exporting", "export RUN|CHECKPOINT DIR [--format safetensors|hf|torch] [--weights model|ema]"),
    "import": (
        "importing",
        "import SOURCE RUN recipe=NAME [key=value ...] [--format F] [--step N] [--weights-only]",
    ),
}
"""The module of each, and how it is called."""


def main(words: Sequence[str]) -> int:
    name = words[0] if words else ""
    if name not in SUBCOMMANDS:
        usage = "\n".join(f"    checkpoint {how}" for _, how in SUBCOMMANDS.values())
        found = f"there is no checkpoint {name}; there are" if name else "the commands are"
        raise ConfigError([Problem("", "", f"{found}:\n{usage}", suggest(name, SUBCOMMANDS))])
    module = importlib.import_module(f"trainkit.cli.checkpoint.{SUBCOMMANDS[name][0]}")
    code: int = module.main(words[1:])
    return code
