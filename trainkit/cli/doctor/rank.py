"""One of the ranks that `doctor` starts: rank BACKEND RANKS FILE NUMBER. It prints what it has measured, as JSON."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Sequence
from datetime import timedelta

COUNT = 4 * 2**20  # numbers of 4 bytes
TIMES = 5
PATIENCE = timedelta(seconds=60)


def main(words: Sequence[str]) -> int:
    import torch
    import torch.distributed as dist

    backend, ranks, file, number = words[0], int(words[1]), words[2], int(words[3])
    device = torch.device("cuda", number) if backend == "nccl" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(backend, init_method=f"file://{file}", rank=number, world_size=ranks, timeout=PATIENCE)

    def took(count: int) -> float:
        numbers = torch.full((count,), number + 1.0, device=device)
        begin = time.perf_counter()
        dist.all_reduce(numbers)
        right.append(bool((numbers == ranks * (ranks + 1) / 2).all().item()))  # waits for the GPU too
        return time.perf_counter() - begin

    right: list[bool] = []
    took(COUNT)  # connections are made in the first one
    seconds = statistics.median(took(COUNT) for _ in range(TIMES))
    latency = statistics.median(took(1) for _ in range(TIMES))
    told = {"right": all(right), "bytes": 4 * COUNT, "bytes_per_second": 4 * COUNT / seconds}
    sys.stdout.write(json.dumps(told | {"latency_ms": round(latency * 1000, 2)}))
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
