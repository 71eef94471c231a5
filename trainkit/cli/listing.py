"""`ls` and `--help`: text made from the configuration files, so that it cannot drift from them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from trainkit.config import components, describe
from trainkit.config.bundle import GROUPS, bundle

USAGE = """trainkit: write a recipe once, choose by a key how and where it is trained.

  trainkit recipe=NAME [key=value ...]        train here, on the GPU if there is one
  trainkit recipe=llm_finetune                fine-tune a small language model
  trainkit recipe=llm_finetune strategy=ddp launcher.ranks=2
  trainkit recipe=llm_finetune run.dir=runs/a     the same command again goes on where it stopped
  trainkit COMMAND ...

(`python -m trainkit` is the same.) Ctrl-C saves a checkpoint and stops; twice ends at once.
Exit codes: 0 done, 2 bad configuration (nothing was started), 75 stopped on request with a
checkpoint saved, 1 anything else.
"""


def listing() -> str:
    """Every choice of every group with its one-line description; the user's own are marked."""
    lines = []
    for group in GROUPS:
        lines.append(f"{group}=")
        for name, path in components(group).items():
            own = "" if path.is_relative_to(bundle("conf")) else "   (yours)"
            lines.append(f"  {name:22}{describe(path)}{own}")
    return "\n".join(lines) + "\n"


def usage_text(commands: Mapping[str, Callable[..., Any]]) -> str:
    """Usage, commands, choices, and the keys of conf/config.yaml with their defaults and comments."""
    lines = [USAGE, "commands:"]
    for name, function in commands.items():
        if not name.startswith("-"):
            lines.append(f"  {name:10}{(function.__doc__ or '').strip().splitlines()[0]}")
    lines += ["", "choices (GROUP=NAME):"]
    for group in GROUPS:
        lines.append(f"  {group:12}{', '.join(components(group))}")
    lines += ["", "keys (KEY=VALUE; a recipe may set other defaults, `trainkit config recipe=NAME` shows all):"]
    return "\n".join(lines + keys()) + "\n"


def keys() -> list[str]:
    """'  train.steps=null    optimizer steps; or ...' for each commented key of conf/config.yaml."""
    lines, section = [], ""
    for line in (bundle("conf") / "config.yaml").read_text().splitlines():
        found = re.match(r"(?P<indent> *)(?P<key>\w+):\s*(?P<value>[^#]*?)\s*(?:#\s*(?P<comment>.*))?$", line)
        if found is None:
            continue
        section = section if found["indent"] else f"{found['key']}."
        if found["comment"]:
            key = f"{section}{found['key']}" if found["indent"] else found["key"]
            lines.append(f"  {key + '=' + found['value']:38} {found['comment']}")
    return lines
