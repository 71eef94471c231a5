"""runs rm: delete run folders. One that is at work is refused, also where another machine is."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from trainkit.cli.jobs.state import Standing, standings
from trainkit.cli.place import run_folders
from trainkit.cli.runs import usage
from trainkit.cli.terminal import say, size
from trainkit.errors import EXIT_DONE, ConfigError, Problem
from trainkit.resilience.lock import RunLock
from trainkit.runfolder import RunFolder

YES = "--yes"


def main(words: Sequence[str]) -> int:
    """All that are named, or, if something speaks against one, none."""
    roots = [word for word in words if word != YES]
    if not roots or any(word.startswith("-") for word in roots):
        raise usage("rm")
    folders = run_folders(roots)
    if problems := [_at_work(s) for s in standings([f.root for f in folders]) if s.goes_on]:
        raise ConfigError(problems)
    if YES not in words:
        told = [f"{folder.root}: {size(_bytes(folder))}" for folder in folders]
        problem = Problem("", "", "would delete, for ever:\n    " + "\n    ".join(told), f"with {YES} it does")
        raise ConfigError([problem])
    for folder in folders:
        freed = _bytes(folder)
        with RunLock(folder.command_lock, folder.root), RunLock(folder.ranks_lock, folder.root):
            shutil.rmtree(folder.root)
        say(f"{folder.root}: deleted, {size(freed)}")
    return EXIT_DONE


def _at_work(standing: Standing) -> Problem:
    note = f" ({standing.note})" if standing.note else ""
    hint = f"`trainkit jobs stop {standing.folder.root}` ends it first"
    return Problem("", "", f"{standing.folder.root} is {standing.state}{note}", hint)


def _bytes(folder: RunFolder) -> int:
    return sum(path.lstat().st_size for path in folder.root.rglob("*") if path.is_symlink() or path.is_file())
