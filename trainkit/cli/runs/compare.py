"""runs compare: results side by side, and in which keys and versions the runs differ."""

from __future__ import annotations

from collections.abc import Sequence

from trainkit.audit.journal import Journal
from trainkit.cli.place import run_folders
from trainkit.cli.runs import usage
from trainkit.cli.terminal import say, show_table, title
from trainkit.errors import EXIT_DONE
from trainkit.report.differences import Difference, keys, versions
from trainkit.report.facts import facts_of


def main(words: Sequence[str]) -> int:
    if len(words) < 2:
        raise usage("compare")
    journals = [Journal(folder) for folder in run_folders(words)]
    facts = [facts_of(journal) for journal in journals]
    names = dict.fromkeys(name for of_run in facts for name in of_run)
    side_by_side(words, [(name, [of_run.get(name) for of_run in facts]) for name in names])
    show_differences(words, journals)
    return EXIT_DONE


def show_differences(names: Sequence[str], journals: Sequence[Journal]) -> None:
    """Keys and versions that are not the same in all."""
    found = [*keys(journals), *versions(journals)]
    title("\nwhat differs")
    if found:
        side_by_side(names, found)
    else:
        say("  nothing: the same keys and versions")


def side_by_side(names: Sequence[str], rows: Sequence[Difference]) -> None:
    show_table(("", *names), [(name, *("-" if value is None else value for value in of)) for name, of in rows])
