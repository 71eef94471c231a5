"""completion bash|zsh|fish: a script that completes commands, keys and choices in that shell.

All words are in the script, so that Tab starts no Python; a component of one's own (conf/recipe/mine.yaml) is found in
the working directory by the shell.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from trainkit.cli.help import details, keys
from trainkit.cli.main import COMMANDS
from trainkit.cli.subcommand import WITH
from trainkit.config.bundle import GROUPS, bundle
from trainkit.config.suggest import suggest
from trainkit.errors import EXIT_DONE, ConfigError, Problem

SHELLS = ("bash", "zsh", "fish")
CONFIGURED = ("validate", "config", "verify", "profile", "sweep")
"""The commands that take the words of a run."""
DETAILS = {
    "subcommands": {
        "completion bash": 'in ~/.bashrc: eval "$(trainkit completion bash)"',
        "completion zsh": 'in ~/.zshrc, after compinit: eval "$(trainkit completion zsh)"',
        "completion fish": "in ~/.config/fish/config.fish: trainkit completion fish | source",
    }
}


def main(words: Sequence[str]) -> int:
    if len(words) != 1 or words[0] not in SHELLS:
        hint = (suggest(words[0], SHELLS) if words else "") or 'in ~/.bashrc: eval "$(trainkit completion bash)"'
        raise ConfigError([Problem("", "", "the command is: completion bash|zsh|fish", hint)])
    sys.stdout.write(script(words[0]))  # as it is: no console is to touch it
    return EXIT_DONE


def script(shell: str) -> str:
    """For this shell, from its template here."""
    text = Path(__file__).with_name(f"template.{shell}").read_text()
    subcommands = {name: " ".join(subs) for name, subs in subcommands_of()}
    cases = {
        "bash": [f'        {name}) words="{subs}" ;;' for name, subs in subcommands.items()],
        "zsh": [f"      {name}) found=({subs}) ;;" for name, subs in subcommands.items()],
        "fish": [f"        case {name}\n            string split ' ' '{subs}'" for name, subs in subcommands.items()],
    }
    filled = {"COMMANDS": " ".join(COMMANDS), "GROUPS": " ".join(GROUPS), "KEYS": " ".join(run_words())}
    filled |= {"CONFIGURED": "|".join(CONFIGURED), "SUBCOMMANDS": "\n".join(cases[shell])}
    for name, value in filled.items():
        text = text.replace(f"@{name}@", value.replace("|", " ") if shell == "fish" and name == "CONFIGURED" else value)
    return text


def subcommands_of() -> Iterator[tuple[str, Sequence[str]]]:
    """Of the commands that have some."""
    for name in WITH:
        yield name, [call.split()[1] for call in details(name)["subcommands"]]


def run_words() -> list[str]:
    """group=choice for all that trainkit ships, and every key, with = and without a value."""
    found = [key.partition("=")[0] + "=" for key, _ in keys()]
    for group in GROUPS:
        for path in sorted((bundle("conf") / group).glob("*.yaml")):
            found.append(f"{group}={path.stem}")
            content = yaml.safe_load(path.read_text()) or {}
            inner = content.get("recipe", {}) if group == "recipe" else content
            found += [f"{group}.{key}=" for key in inner if not key.startswith("_") and key != "defaults"]
    return [*dict.fromkeys(found)]
