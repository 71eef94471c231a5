"""audit RUN [RUN ...]: prove from the run folder that nothing was lost, and say where the time went."""

from __future__ import annotations

from collections.abc import Sequence

from trainkit.audit.checks import WORD, Finding, findings, tracked
from trainkit.audit.goodput import goodput, lines
from trainkit.audit.journal import Journal
from trainkit.cli.place import run_folders
from trainkit.cli.terminal import say, show_rows, title
from trainkit.config import build
from trainkit.console import duration
from trainkit.errors import EXIT_DONE, EXIT_FAILED, ConfigError, Problem
from trainkit.runfolder import RunFolder


def main(words: Sequence[str]) -> int:
    if not words:
        raise ConfigError([Problem("", "", "the command is: audit RUN [RUN ...]", "RUN is a run folder")])
    folders = run_folders(words)
    results = [audit(folder) for folder in folders]
    return EXIT_DONE if all(results) else EXIT_FAILED


def audit(folder: RunFolder) -> bool:
    """Print what was found of one run; whether everything holds."""
    journal = Journal(folder)
    title(str(folder.root))
    if not journal.starts:
        say("  training has not begun: nothing to check")
        return True
    found = examined(journal)
    show_rows([(finding.what, f"{WORD[finding.ok]}: {finding.detail}") for finding in found], 16)
    parts = goodput(journal)
    say(f"\n  goodput {parts.share():.1%} of {duration(parts.wall)}")
    show_rows([(name, f"{_time(seconds)} ({_percent(seconds, parts.wall)})") for name, seconds in lines(parts)], 16)
    return all(finding.ok is not False for finding in found)


def examined(journal: Journal) -> list[Finding]:
    """All that can be checked of a run, its tracker too; nothing of one that has not begun to train."""
    return [*findings(journal), tracked(journal, lambda: _held(journal))] if journal.starts else []


def _held(journal: Journal) -> Sequence[int] | None:
    settings, problems = build(journal.config)
    if settings is None:
        raise ConfigError(problems)
    return settings.tracker.held(journal.folder.root)


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else duration(seconds)


def _percent(seconds: float, wall: float) -> str:
    return f"{seconds / wall:.1%}" if wall else "0%"
