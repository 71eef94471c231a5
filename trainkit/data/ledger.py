"""The audit trail of the data: which sample ids every step really trained, as each rank saw them."""

from __future__ import annotations

from typing import Any

from trainkit.data.plan import Step
from trainkit.protocols import World
from trainkit.runfolder import RunFolder, append_line


class Ledger:
    """Writes RUN/ledger/attempt_A/rank_R.jsonl: {"step": s, "ids": [...]}, after the step was made; of one
    that was not trained because it was bad, with "skipped": true. What a lost
    attempt wrote past the checkpoint that the run went on from is dropped, so that the rows of all files together
    are the run's history. Of the ranks that read the same samples the first one writes. `writers`: their numbers.
    Made on every rank: collective.
    """

    def __init__(self, folder: RunFolder, attempt: int, world: World) -> None:
        seats = world.gather(world.dp_rank)
        self.writers = [seats.index(seat) for seat in range(world.dp_size)]
        self._writes = world.rank in self.writers
        self._path = folder.ledger(attempt, world.rank)
        if self._writes:
            self._path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, number: int, step: Step, skipped: bool) -> None:
        if not self._writes:
            return
        append_line(self._path, row(number, step, skipped))


def row(number: int, step: Step, skipped: bool) -> dict[str, Any]:
    """What the ledger says of a step of one rank."""
    return {"step": number, "ids": step.ids()} | ({"skipped": True} if skipped else {})
