"""--help: examples, commands, then the keys as conf/config.yaml explains them."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Sequence

from trainkit import __version__
from trainkit.cli.examples import EXAMPLES as EXAMPLES_OF
from trainkit.cli.main import COMMANDS
from trainkit.cli.subcommand import Details
from trainkit.cli.terminal import say, show_rows, title
from trainkit.config.bundle import GROUPS, bundle, components
from trainkit.errors import EXIT_DONE

EXAMPLES = {
    "recipe=llm_finetune": "fine-tune a small language model on whatever this machine has",
    "recipe=llm_finetune recipe.lora=null": "all weights instead of adapters",
    "recipe=image_classification strategy=ddp launcher.ranks=2": "two ranks, the same loss curve",
    "recipe=image_classification run.dir=runs/a": "again with the same run.dir: goes on where it stopped",
    "recipe=mine": "your own recipes/mine.py and conf/recipe/mine.yaml in this folder",
}
CODES = {
    "0": "done",
    "2": "bad configuration; nothing was started or written",
    "75": "stopped on request; a checkpoint is saved, run again to go on",
    "1": "anything else",
}
KEY = re.compile(r"^(?P<indent> *)(?P<name>\w+):(?P<value>[^#]*)(#\s*(?P<comment>.*))?$")


def main(words: Sequence[str]) -> int:
    """Of everything, or of the command that the first word is."""
    if words and words[0] in COMMANDS:
        return _one(words[0])
    say(f"trainkit {__version__}: one Trainer over the distributed-training frameworks\n")
    say("usage: python -m trainkit recipe=NAME [key=value ...]     (trainkit is the same as python -m trainkit)")
    say("       python -m trainkit COMMAND [...]\n")
    title("examples (after python -m trainkit)")
    show_rows(EXAMPLES.items())
    title("\ncommands")
    show_rows(COMMANDS.items(), 10)
    title("\nchoices (trainkit ls says what each one is)")
    show_rows([(f"{group}=", " | ".join(components(group))) for group in GROUPS], 12)
    title("\nkeys and their defaults; a recipe may set others (trainkit config recipe=NAME shows them)")
    show_rows(keys())
    say("\nCtrl-C saves a checkpoint and stops, a second one ends at once. Run the same command again to go on.")
    title("\nexit codes")
    show_rows(CODES.items(), 10)
    return EXIT_DONE


def _one(name: str) -> int:
    say(f"python -m trainkit {name}: {COMMANDS[name]}\n")
    title("examples (after python -m trainkit)")
    show_rows(EXAMPLES_OF[name].items())
    for what, rows in details(name).items():
        title(f"\n{what}")
        show_rows(rows.items())
    return EXIT_DONE


def details(name: str) -> Details:
    """What there is to say of a command besides its examples."""
    told: Details = vars(importlib.import_module(f"trainkit.cli.{name}")).get("DETAILS", {})
    return told


def keys() -> Iterator[tuple[str, str]]:
    """Every key of conf/config.yaml: `train.seed=0` and its comment."""
    section = ""
    for line in (bundle("conf") / "config.yaml").read_text().splitlines():
        found = KEY.match(line)
        if not found or found["name"] == "defaults":
            continue
        name, value, comment = found["name"], found["value"].strip(), found["comment"] or ""
        if found["indent"]:
            yield f"{section}.{name}={value}", comment
        elif value:
            yield f"{name}={value}", comment
        else:
            section = name
