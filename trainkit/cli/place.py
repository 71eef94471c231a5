"""Run folders that the words of a command name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainkit.errors import ConfigError, Problem
from trainkit.runfolder import RunFolder


def run_folders(words: Sequence[str]) -> list[RunFolder]:
    """Raises ConfigError that names all that are none."""
    folders = [RunFolder(Path(word).expanduser().absolute()) for word in words]
    strange = [folder.root for folder in folders if not folder.config.is_file()]
    if strange:
        hint = "`trainkit runs ls FOLDER` shows the runs in a folder"
        raise ConfigError(
            [Problem("", "", f"{root} is no run folder: it has no config.yaml", hint) for root in strange]
        )
    return folders
