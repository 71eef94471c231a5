"""audit RUN [RUN ...]: prove from the run folder that nothing was lost, and say where the time went."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainkit.audit.checks import findings, tracked
from trainkit.audit.goodput import goodput, lines
from trainkit.audit.journal import Journal
from trainkit.cli.terminal import say, show_rows, title
from trainkit.config import build
from trainkit.console import duration
from trainkit.errors import EXIT_DONE, EXIT_FAILED, ConfigError, Problem
from trainkit.runfolder import RunFolder

WORD = {True: "ok", False: "FAULT", None: "not checked"}


def main(words: Sequence[str]) -> int:
    if not words:
        raise ConfigError([Problem("", "", "the command is: audit RUN [RUN ...]", "RUN is a run folder")])
    folders = [RunFolder(Path(word).expanduser().absolute()) for word in words]
    strange = [folder.root for folder in folders if not folder.config.is_file()]
    if strange:
        raise ConfigError([Problem("", "", f"{root} is no run folder: it has no config.yaml") for root in strange])
    results = [audit(folder) for folder in folders]
    return EXIT_DONE if all(results) else EXIT_FAILED


def audit(folder: RunFolder) -> bool:
    """Print what was found of one run; whether everything holds."""
    journal = Journal(folder)
    title(str(folder.root))
    if not journal.starts:
        say("  training has not begun: nothing to check")
        return True
    found = [*findings(journal), tracked(journal, lambda: _held(journal))]
    show_rows([(finding.what, f"{WORD[finding.ok]}: {finding.detail}") for finding in found], 16)
    parts = goodput(journal)
    say(f"\n  goodput {parts.share():.1%} of {duration(parts.wall)}")
    show_rows([(name, f"{_time(seconds)} ({_percent(seconds, parts.wall)})") for name, seconds in lines(parts)], 16)
    return all(finding.ok is not False for finding in found)


def _held(journal: Journal) -> Sequence[int] | None:
    settings, problems = build(journal.config)
    if settings is None:
        raise ConfigError(problems)
    return settings.tracker.held(journal.folder.root)


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else duration(seconds)


def _percent(seconds: float, wall: float) -> str:
    return f"{seconds / wall:.1%}" if wall else "0%"
