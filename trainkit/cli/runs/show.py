"""runs show: what a run has learnt, and what happened to it."""

from __future__ import annotations

from collections.abc import Sequence

from trainkit.audit.journal import Journal
from trainkit.cli.jobs import status
from trainkit.cli.place import run_folders
from trainkit.cli.runs import usage
from trainkit.cli.terminal import show_rows, title
from trainkit.report.differences import environment
from trainkit.report.facts import facts_of


def main(words: Sequence[str]) -> int:
    if len(words) != 1:
        raise usage("show")
    (folder,) = run_folders(words)
    code = status.main(words)
    journal = Journal(folder)
    title("\nresult")
    show_rows(facts_of(journal).items(), 16)
    title("\nenvironment")
    show_rows(environment(journal).items(), 16)
    return code
