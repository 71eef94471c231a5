"""How long a training loop stands still for one save, beside what the others take.

    python benchmarks/checkpoint.py [--rounds 5] [--layers 8] [--folder DIR] [--only memcpy,trainkit]

One process; the state is that of a GPT-2 of `layers` layers and its AdamW, in fp32: with 8, 95M parameters and 1.1 GB.
Every round enters each variant once, in rotated order, after a first one that reserves memory and is not counted.
`stall` is the time until the loop may change the weights, `durable` until the checkpoint may be relied on: for trainkit
that is digested, synced and committed; the others do not digest, and DCP alone syncs its data. The control is a plain
copy of all tensors into memory that is warm: less, no save that copies can take.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from trainkit.checkpoint.store import CheckpointStore  # noqa: E402
from trainkit.strategy._world import Solo  # noqa: E402

WIDTH, VOCABULARY, POSITIONS = 768, 50257, 1024
Save = Callable[[Path], Callable[[], object]]
"""Begins a save in a folder, and returns when the loop may go on; what it returns waits for the rest."""


def shapes(layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "wte.weight", (VOCABULARY, WIDTH)
    yield "wpe.weight", (POSITIONS, WIDTH)
    for i in range(layers):
        for name, out, into in (("attn", 3, 1), ("proj", 1, 1), ("up", 4, 1), ("down", 1, 4)):
            yield f"h.{i}.{name}.weight", (out * WIDTH, into * WIDTH)
            yield f"h.{i}.{name}.bias", (out * WIDTH,)
        for name in ("ln_1", "ln_2"):
            yield f"h.{i}.{name}.weight", (WIDTH,)
            yield f"h.{i}.{name}.bias", (WIDTH,)


def make_state(layers: int) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(1)
    model = {name: torch.randn(shape, generator=draw) for name, shape in shapes(layers)}
    moments = {name: {"exp_avg": w * 0.1, "exp_avg_sq": w * w, "step": torch.tensor(1.0)} for name, w in model.items()}
    return {"model": model, "optimizer": moments}


def flat(state: dict[str, Any]) -> list[Tensor]:
    return [t for value in state.values() for t in (flat(value) if isinstance(value, dict) else [value])]


# ----------------------------------------------------------------------------------------- variants


def memcpy(state: dict[str, Any]) -> Save:
    live = flat(state)
    copies = [torch.empty_like(tensor) for tensor in live]

    def save(folder: Path) -> Callable[[], object]:
        for copy, tensor in zip(copies, live, strict=True):
            copy.copy_(tensor)
        return lambda: None

    return save


def trainkit(state: dict[str, Any], staged: bool = True) -> Save:
    from concurrent.futures import ThreadPoolExecutor

    store = CheckpointStore(Path("none"), Solo(device=torch.device("cpu")), 1, {}, print)
    store.connect()
    thread = ThreadPoolExecutor(1)

    def save(folder: Path) -> Callable[[], object]:
        store.folder = folder
        rest = store.begin(1, state, {}, staged=staged)
        if not staged:
            rest()
            return lambda: None
        return thread.submit(rest).result

    return save


def trainkit_synchronous(state: dict[str, Any]) -> Save:
    return trainkit(state, staged=False)


def dcp_save(state: dict[str, Any]) -> Save:
    from torch.distributed.checkpoint.state_dict_saver import save as dcp

    def save(folder: Path) -> Callable[[], object]:
        dcp(state, checkpoint_id=folder, no_dist=True)
        return lambda: None

    return save


def dcp_async_save(state: dict[str, Any], stager: Any = None) -> Save:
    from torch.distributed.checkpoint.state_dict_saver import async_save

    def save(folder: Path) -> Callable[[], object]:
        future: Any = async_save(state, checkpoint_id=folder, async_stager=stager, no_dist=True)
        return future.result  # type: ignore[no-any-return]

    return save


def dcp_async_save_cached(state: dict[str, Any]) -> Save:
    """With a stager that keeps its memory from one save to the next."""
    from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

    return dcp_async_save(state, DefaultStager(StagingOptions(False, False, False, False)))


def torch_save(state: dict[str, Any]) -> Save:
    def save(folder: Path) -> Callable[[], object]:
        torch.save(state, folder / "state.pt")
        return lambda: None

    return save


VARIANTS: dict[str, Callable[[dict[str, Any]], Save]] = {
    "memcpy": memcpy,
    "trainkit": trainkit,
    "trainkit-synchronous": trainkit_synchronous,
    "dcp-async": dcp_async_save,
    "dcp-async-cached": dcp_async_save_cached,
    "dcp": dcp_save,
    "torch.save": torch_save,
}


def timed(save: Save, within: Path) -> tuple[float, float]:
    """Seconds of the stall, and until all is done."""
    folder = Path(tempfile.mkdtemp(dir=within))
    begin = time.perf_counter()
    rest = save(folder)
    stall = time.perf_counter() - begin
    rest()
    whole = time.perf_counter() - begin
    shutil.rmtree(folder)
    return stall, whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--folder", type=Path, default=None, help="a disk to write to; default: the one of $TMPDIR")
    parser.add_argument("--only", default=",".join(VARIANTS))
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="torch.distributed is disabled")
    state = make_state(options.layers)
    saves = {name: VARIANTS[name](state) for name in options.only.split(",")}
    size = sum(tensor.nbytes for tensor in flat(state))
    print(f"state: {size / 2**20:.0f} MiB in {len(flat(state))} tensors; torch {torch.__version__}")
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in saves}
    with tempfile.TemporaryDirectory(dir=options.folder) as within:
        for save in saves.values():
            timed(save, Path(within))
        names = list(saves)
        for i in range(options.rounds):
            for name in names[i % len(names) :] + names[: i % len(names)]:
                found[name].append(timed(saves[name], Path(within)))
    control = statistics.median(stall for stall, _ in found["memcpy"]) if "memcpy" in found else None
    for name, pairs in found.items():
        stalls, wholes = zip(*pairs, strict=True)
        stall = statistics.median(stalls)
        ratio = f"{stall / control:7.2f} x memcpy" if control else ""
        spread = f"[{min(stalls):.3f}, {max(stalls):.3f}]"
        print(f"{name:22} stall {stall:7.3f} s {spread:18} {ratio}   durable {statistics.median(wholes):7.3f} s")


if __name__ == "__main__":
    main()
