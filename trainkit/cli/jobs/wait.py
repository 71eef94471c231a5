"""jobs wait: until a run, or the array of a sweep, has ended, wherever it runs; with the exit code that it would have
had here."""

from __future__ import annotations

import time
from collections.abc import Sequence

from trainkit.cli.jobs import usage
from trainkit.cli.jobs.state import one, runs, standings
from trainkit.cli.terminal import say
from trainkit.errors import EXIT_CONFIG, EXIT_DONE, EXIT_FAILED, EXIT_STOPPED

LOOK_S = 2.0
CODES = {"done": EXIT_DONE, "stopped": EXIT_STOPPED, "refused": EXIT_CONFIG}


def main(words: Sequence[str]) -> int:
    root = one(words, usage("wait"))
    while True:
        found = standings([*runs(root)] or [root])
        if not any(standing.goes_on for standing in found):
            break
        time.sleep(LOOK_S)
    for standing in found:
        say(f"{standing.folder.root}: {standing.state}, step {standing.step}")
    codes = [CODES.get(standing.state, EXIT_FAILED) for standing in found]
    return EXIT_FAILED if EXIT_FAILED in codes else max(codes)
