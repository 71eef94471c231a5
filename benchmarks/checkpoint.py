"""What a checkpoint costs beside others: how long the loop stands still, when it is durable, how long it takes to load.

    python benchmarks/checkpoint.py [--rounds 5] [--layers 8] [--folder DIR] [--only memcpy,trainkit]

One process; the state is that of a GPT-2 of `layers` layers and its AdamW, in fp32: with 8, 95M parameters and 1.1 GB.
Every round enters each variant once, in rotated order, after a first one that reserves memory and is not counted.

stall    until the loop may change the weights. The control is a copy of all tensors into memory that is warm: no save
         that copies can take less
durable  until the checkpoint may be relied on: for trainkit that is digested, synced and committed. The others digest
         nothing, and DCP alone syncs. The control is a plain write of the same bytes into one file, synced
load     from files that the system has in memory into the tensors of the state, for trainkit after all are verified.
         The control is a plain read of the same bytes into those tensors
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

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


def write(state: dict[str, Any]) -> Save:
    live = flat(state)

    def save(folder: Path) -> Callable[[], object]:
        with (folder / "state").open("wb", buffering=0) as file:
            for tensor in live:
                file.write(memoryview(tensor.numpy()).cast("B") if tensor.ndim else tensor.numpy().tobytes())
            os.fsync(file.fileno())
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


def fabric_save(state: dict[str, Any]) -> Save:
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1)

    def save(folder: Path) -> Callable[[], object]:
        fabric.save(folder / "state.ckpt", state)
        return lambda: None

    return save


def accelerate_save(state: dict[str, Any]) -> Save:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model = nn.ParameterDict({name.replace(".", "_"): tensor for name, tensor in state["model"].items()})
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    accelerator.prepare(model, optimizer)

    def save(folder: Path) -> Callable[[], object]:
        accelerator.save_state(str(folder))
        return lambda: None

    return save


def transformers_save(state: dict[str, Any]) -> Save:
    """What transformers.Trainer writes for a checkpoint."""
    from safetensors.torch import save_file

    def save(folder: Path) -> Callable[[], object]:
        save_file(state["model"], folder / "model.safetensors")
        torch.save(state["optimizer"], folder / "optimizer.pt")
        return lambda: None

    return save


VARIANTS: dict[str, Callable[[dict[str, Any]], Save]] = {
    "memcpy": memcpy,
    "write": write,
    "trainkit": trainkit,
    "trainkit-synchronous": trainkit_synchronous,
    "dcp-async": dcp_async_save,
    "dcp-async-cached": dcp_async_save_cached,
    "dcp": dcp_save,
    "torch.save": torch_save,
    "fabric": fabric_save,
    "accelerate": accelerate_save,
    "transformers": transformers_save,
}


# ----------------------------------------------------------------------------------------- loading


def read(folder: Path, state: dict[str, Any]) -> None:
    with (folder / "state").open("rb", buffering=0) as file:
        for tensor in flat(state):
            if tensor.ndim:
                file.readinto(memoryview(tensor.numpy()).cast("B"))
            else:
                tensor.copy_(torch.frombuffer(bytearray(file.read(tensor.nbytes)), dtype=tensor.dtype)[0])


def trainkit_load(folder: Path, state: dict[str, Any]) -> None:
    store = CheckpointStore(folder, Solo(device=torch.device("cpu")), 1, {}, print)
    newest = store.latest()
    if newest is None:
        raise FileNotFoundError(folder)
    store.load(newest, state)


def dcp_load(folder: Path, state: dict[str, Any]) -> None:
    from torch.distributed.checkpoint.state_dict_loader import load

    load(state, checkpoint_id=folder, no_dist=True)


def torch_load(folder: Path, state: dict[str, Any]) -> None:
    for tensor, loaded in zip(flat(state), flat(torch.load(folder / "state.pt", weights_only=True)), strict=True):
        tensor.copy_(loaded)


LOADS: dict[str, Callable[[Path, dict[str, Any]], None]] = {
    "write": read,
    "trainkit-synchronous": trainkit_load,
    "dcp": dcp_load,
    "torch.save": torch_load,
}
"""By the variant that has written."""


class Times(NamedTuple):
    """In seconds."""

    stall: float
    durable: float
    load: float


def timed(save: Save, load: Callable[[Path], None] | None, within: Path) -> Times:
    """One save, and one load of it if there is a way to."""
    folder = Path(tempfile.mkdtemp(dir=within))
    begin = time.perf_counter()
    rest = save(folder)
    stall = time.perf_counter() - begin
    rest()
    durable = time.perf_counter() - begin
    begin = time.perf_counter()
    if load is not None:
        load(folder)
    loaded = time.perf_counter() - begin
    shutil.rmtree(folder)
    return Times(stall, durable, loaded if load is not None else math.nan)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--folder", type=Path, default=None, help="a disk to write to; default: the one of $TMPDIR")
    parser.add_argument("--only", default=",".join(VARIANTS))
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="torch.distributed is disabled")
    state = make_state(options.layers)
    names = options.only.split(",")
    saves = {name: VARIANTS[name](state) for name in names}
    loads = {name: partial(LOADS[name], state=make_state(options.layers)) for name in names if name in LOADS}
    size = sum(tensor.nbytes for tensor in flat(state))
    print(f"state: {size / 2**20:.0f} MiB in {len(flat(state))} tensors; torch {torch.__version__}")
    found: dict[str, list[Times]] = {name: [] for name in saves}
    with tempfile.TemporaryDirectory(dir=options.folder) as within:
        for turn in range(-1, options.rounds):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                found[name].append(timed(saves[name], loads.get(name), Path(within)))
    rounds = {name: times[1:] for name, times in found.items()}
    for what, control in (("stall", "memcpy"), ("durable", "write"), ("load", "write")):
        print()
        for name in names:
            show(what, name, rounds[name], rounds.get(control))


def show(what: str, name: str, rounds: Sequence[Times], control: Sequence[Times] | None) -> None:
    """The median, the extremes, and the median of the ratios to the control of the same round."""
    seconds = [getattr(times, what) for times in rounds]
    if math.isnan(seconds[0]):
        return
    line = f"{name:22} {what:8} {statistics.median(seconds):7.3f} s [{min(seconds):.3f}, {max(seconds):.3f}]"
    if control is not None:
        ratios = [mine / getattr(other, what) for mine, other in zip(seconds, control, strict=True)]
        line += f"   {statistics.median(ratios):6.2f} x control [{min(ratios):.2f}, {max(ratios):.2f}]"
    print(line)


if __name__ == "__main__":
    main()
