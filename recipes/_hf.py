"""What the recipes share about transformers: being quiet, and finding a model."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

from trainkit.errors import Problem, TrainkitError
from trainkit.protocols import Say

HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
FILES = ("*.json", "*.jinja", "*.safetensors", "*.model", "*.txt")


def quiet() -> None:
    """Keep transformers' progress bars and advice out of the run's log."""
    from transformers import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")  # peft uses the old name


def problems_of(key: str, model: str) -> list[Problem]:
    """What is wrong with the name of a model: a folder here, or an id on the hub."""
    folder = Path(model).expanduser()
    if folder.exists() and not (folder / "config.json").is_file():
        hint = "a Hugging Face model folder holds config.json, the weights and the tokenizer"
        return [Problem(key, model, "is no model folder", hint)]
    if not folder.exists() and not HUB_ID.fullmatch(model):
        return [
            Problem(key, model, "there is no such folder, and it is no id on the hub", "smollm2, FOLDER or ORG/NAME")
        ]
    return []


def download(key: str, model: str, say: Say) -> None:
    """Have the files of a hub id on this machine. Raises TrainkitError where the hub does not give them."""
    if Path(model).expanduser().exists():
        return
    from huggingface_hub import snapshot_download

    say(f"looking for {model} on the Hugging Face hub")
    try:
        snapshot_download(model, allow_patterns=list(FILES))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        told = f"{key}={model}: no folder here, and the hub does not give it: {reason}"
        raise TrainkitError(f"{told}\n    the model that needs no hub is {key}=smollm2") from error


def location(model: str) -> str:
    """The folder with the files of `model`, which `download` has seen to."""
    if Path(model).expanduser().exists():
        return str(Path(model).expanduser())
    from huggingface_hub import snapshot_download

    return str(snapshot_download(model, allow_patterns=list(FILES), local_files_only=True))
