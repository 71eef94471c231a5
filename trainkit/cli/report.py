"""report RUN [RUN ...] [to=FILE]: one page about runs, which opens anywhere without a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainkit.audit.journal import Journal
from trainkit.cli.audit import examined
from trainkit.cli.place import run_folders
from trainkit.cli.terminal import say
from trainkit.errors import EXIT_DONE, ConfigError, Problem
from trainkit.report.page import MOST, page
from trainkit.runfolder import replace_text

NAME, TO = "report.html", "to="


def main(words: Sequence[str]) -> int:
    """By default into the run's folder, for several into the working directory."""
    roots = [word for word in words if not word.startswith(TO)]
    if not roots:
        raise ConfigError([Problem("", "", "the command is: report RUN [RUN ...] [to=FILE]", "RUN is a run folder")])
    folders = run_folders(roots)
    if len(folders) > MOST:
        raise ConfigError([Problem("", "", f"{len(folders)} runs are too many for a page", f"at most {MOST}")])
    named = [word.removeprefix(TO) for word in words if word.startswith(TO)]
    default = folders[0].root / NAME if len(folders) == 1 else Path.cwd() / NAME
    target = Path(named[-1]).expanduser().absolute() if named else default
    if target.is_dir() or not target.parent.is_dir():
        found = "is a folder" if target.is_dir() else f"there is no folder {target.parent}"
        raise ConfigError([Problem("to", named[-1], found, "to= is the file that the page is written to")])
    journals = [Journal(folder) for folder in folders]
    replace_text(target, page(journals, [examined(journal) for journal in journals]))
    say(str(target))
    return EXIT_DONE
