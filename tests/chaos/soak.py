"""make soak: one run whose ranks are killed again and again, and what it came to.

python -m tests.chaos.soak [--kills 100] [--strategy ddp] [--saving] [--seed N]
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
from pathlib import Path

from tests.chaos.faults import kill, kill_unseen
from tests.chaos.project import WORDS, made
from tests.e2e.command import Running, done, events, last_step, trained, weights

STEPS_PER_KILL = 20
SAVING = ("checkpoint.every=1", "recovery.killed=1000")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--strategy", default="ddp")
    parser.add_argument("--saving", action="store_true", help="in saves, and behind the others' backs")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    asked = parser.parse_args()
    print(f"{asked.kills} kills under {asked.strategy}{' in saves' * asked.saving}, --seed {asked.seed}", flush=True)
    with tempfile.TemporaryDirectory() as root:
        soak(Path(root), asked.strategy, asked.kills, asked.saving, random.Random(asked.seed))


def soak(root: Path, strategy: str, kills: int, saving: bool, chance: random.Random) -> None:
    steps = (kills + 2) * STEPS_PER_KILL
    words = (*WORDS, f"strategy={strategy}", f"train.steps={steps}", *SAVING * saving)
    whole, broken = made(root / "whole"), made(root / "broken")
    done(whole, *words)
    running = Running(broken, *words)
    for _ in range(kills):
        running.reach(max(last_step(running.run), 0) + chance.randrange(2, STEPS_PER_KILL))
        (kill_unseen if saving else kill)(running, chance)
    if running.wait() != 0:
        raise SystemExit(running.said.read_text())
    failures, starts = events(running.run, "failure"), events(running.run, "start")
    back = [after["time"] - before["time"] for before, after in zip(failures, starts[1:], strict=True)]
    lost = [before["step"] - 1 - after["step"] for before, after in zip(failures, starts[1:], strict=True)]
    middle, most = statistics.median(back), max(back)
    print(f"from the death of a rank until all train again: median {middle:.2f} s, most {most:.2f} s")
    print(f"restarts for which no rank had kept the step: {sum(start['given_by'] is None for start in starts[1:])}")
    print(f"finished steps that were trained again: {sum(max(0, steps) for steps in lost)}")
    same = weights(running.run) == weights(whole / "run") and trained(running.run) == trained(whole / "run")
    print("weights and samples are those of the undisturbed run" if same else "THE RESULT DIFFERS")
    print(done(broken, "audit", "run"))


if __name__ == "__main__":
    main()
