"""jobs status: where a run stands, and what happened to it."""

from __future__ import annotations

from collections.abc import Sequence

from trainkit.cli.jobs import usage
from trainkit.cli.jobs.state import one, runs, standings
from trainkit.cli.terminal import say, show_rows
from trainkit.console import TOLD, describe
from trainkit.errors import EXIT_DONE
from trainkit.runfolder import read_lines

LAST = 12


def main(words: Sequence[str]) -> int:
    for standing in standings([*runs(one(words, usage("status")))]):
        root = standing.folder.root
        rows = [("state", f"{standing.state}  {standing.note}".rstrip()), ("step", str(standing.step))]
        rows += [("job", standing.job)] if standing.job else []
        rows += [("logs", str(root / "logs"))]
        say(str(root))
        show_rows(rows)
        happened = [event for event in read_lines(standing.folder.events) if event["event"] in TOLD]
        for event in happened[-LAST:]:
            say(f"  {describe(event)}")
    return EXIT_DONE
