"""What `trainkit plan` predicts for this machine, beside measured steps of two ranks. Printed, never asserted.

python -m trainkit plan --calibrate && python benchmarks/plan.py
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.conformance.pool import Pool  # noqa: E402
from trainkit import main as trainkit_main  # noqa: E402
from trainkit.plan.machine import site  # noqa: E402
from trainkit.plan.plan import plan, settled  # noqa: E402
from trainkit.simulation.simulate import share  # noqa: E402

WORDS = ["recipe=llm_pretrain", "recipe.size=tiny", "recipe.width=256", "train.device=cpu", "train.micro_batch=4"]
WAYS = [("strategy=ddp",), ("strategy=fsdp",), ("strategy=tensor",), ("strategy=pipeline", "strategy.stages=2")]
STEPS = 5


def measured(words: list[str], ranks: int) -> float:
    """Seconds of a step on a rank: the median, without the first two."""
    settings = settled(words, site("here"))
    world = settings.strategy.connect("cpu")
    try:
        engine: Any = settings.strategy.build(trainkit_main.training(settings), world)
        batches = share(settings, ranks)
        found = []
        for _ in range(STEPS + 2):
            world.barrier()
            begin = time.perf_counter()
            engine.forward_backward(batches, float(settings.train.global_batch))
            engine.update(0.0)
            found.append(time.perf_counter() - begin)
        return median(found[2:])
    finally:
        world.close()


def main() -> None:
    here = site("here")
    pool = Pool(here.ranks)
    print(f"{'':<30} {'predicted':>10} {'measured':>10} {'ratio':>6}")
    try:
        for way in WAYS:
            words = [*WORDS, *way]
            real = max(pool.run(here.ranks, measured, words, here.ranks))
            (row,) = plan(words, here)
            if row.times is not None:
                step = row.times.step
                print(f"{row.name:<30} {step:>8.3f} s {real:>8.3f} s {step / real:>6.2f}")
    finally:
        pool.close()


if __name__ == "__main__":
    main()
