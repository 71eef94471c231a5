"""jobs wait: until the run has ended, wherever it runs; with the exit code that it would have had here."""

from __future__ import annotations

import time
from collections.abc import Sequence

from trainkit.cli.jobs.state import one, standings
from trainkit.cli.terminal import say
from trainkit.errors import EXIT_CONFIG, EXIT_DONE, EXIT_FAILED, EXIT_STOPPED

LOOK_S = 2.0
CODES = {"done": EXIT_DONE, "stopped": EXIT_STOPPED, "refused": EXIT_CONFIG}


def main(words: Sequence[str]) -> int:
    root = one(words, "wait")
    while (standing := standings([root])[0]).goes_on:
        time.sleep(LOOK_S)
    say(f"{root}: {standing.state}, step {standing.step}")
    return CODES.get(standing.state, EXIT_FAILED)
