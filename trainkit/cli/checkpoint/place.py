"""What RUN|CHECKPOINT on the command line names. Imports no torch.

RUN          a run folder, or a folder of checkpoints
CHECKPOINT   one folder step_N
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from trainkit.checkpoint.manifest import MANIFEST, MARKER, committed, steps
from trainkit.errors import ConfigError, Problem
from trainkit.runfolder import RunFolder


@dataclass(frozen=True)
class Place:
    """`folder` holds the checkpoints; `one` is set where a single one was named. `run` need not exist: a checkpoint may
    have been copied out of it."""

    run: RunFolder
    folder: Path
    one: Path | None = None

    @cached_property
    def config(self) -> dict[str, Any]:
        """What config.yaml says; nothing where there is none."""
        if not self.run.config.is_file():
            return {}
        content = yaml.safe_load(self.run.config.read_text())
        return content if isinstance(content, dict) else {}

    def steps(self) -> list[int]:
        """The steps that have a folder. Raises ConfigError if there is none."""
        found = steps(self.folder)
        if not found:
            raise ConfigError([Problem("", "", f"there is no checkpoint in {self.folder}")])
        return found


def find(word: str) -> Place:
    """Raises ConfigError if `word` names neither, with what was looked for."""
    path = Path(word).expanduser().absolute()
    if (
        (path / MANIFEST).exists()
        or (path / MARKER).exists()
        or (re.fullmatch(r"step_\d+", path.name) and path.is_dir())
    ):
        return Place(RunFolder(path.parent.parent), path.parent, path)
    run = RunFolder(path)
    if run.config.is_file():
        configured = Place(run, path).config.get("checkpoint", {}).get("dir")
        return Place(run, run.checkpoints(configured))
    if run.checkpoints(None).is_dir():
        return Place(run, run.checkpoints(None))
    if committed(path):
        return Place(RunFolder(path.parent), path)
    found = "there is no such folder"
    if path.exists():
        looked = f"config.yaml, checkpoints/, step_N/ or {MANIFEST}"
        found = f"is neither a run folder nor a checkpoint: none of {looked} is in it"
    raise ConfigError([Problem("", "", f"{path}: {found}")])
