"""What trainkit adds to a bare PyTorch loop, beside what the others add.

    python benchmarks/overhead.py [--steps 200] [--rounds 7] [--only bare,trainkit,fabric]

One process, one small model, the same samples in the same order; the final loss of all must agree. trainkit runs its
whole Trainer (metrics of every step to the run folder, a checkpoint at the end) while a second process, in place of
a real run's front, forwards the rows to MLflow.

First the figure without noise: Python function calls per step above the bare loop (sys.setprofile, the difference
between a run of 2N and of N steps, so that start-up does not count). Then time, in rotated rounds with the bare loop
entered twice: the spread of that control says which differences mean something.
"""

from __future__ import annotations

import argparse
import functools
import logging
import multiprocessing
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import common, probes  # noqa: E402
from benchmarks.common import BATCH, CLIP, SmallTask, X, Y, make_model, make_optimizer, rotated, sample_ids  # noqa: E402
from trainkit import main as trainkit_main  # noqa: E402
from trainkit.runfolder import RunFolder, read_lines  # noqa: E402
from trainkit.settings import DataSettings  # noqa: E402


def bare(steps: int) -> float:
    model = make_model()
    optimizer = make_optimizer(model)
    for ids in sample_ids(steps):
        loss = F.cross_entropy(model(X[ids]), Y[ids])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def fabric(steps: int) -> float:
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1)
    raw = make_model()
    model, optimizer = fabric.setup(raw, make_optimizer(raw))
    for ids in sample_ids(steps):
        loss = F.cross_entropy(model(X[ids]), Y[ids])
        fabric.backward(loss)
        fabric.clip_gradients(model, optimizer, max_norm=CLIP)
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def accelerate(steps: int) -> float:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    raw = make_model()
    model, optimizer = accelerator.prepare(raw, make_optimizer(raw))
    for ids in sample_ids(steps):
        loss = F.cross_entropy(model(X[ids]), Y[ids])
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def lightning(steps: int) -> float:
    import lightning as L

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.last = make_model(), torch.zeros(())

        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            loss = F.cross_entropy(self.model(batch[0]), batch[1])
            self.last = loss.detach()
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return make_optimizer(self.model)

    module = Module()
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        gradient_clip_val=CLIP,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, Batches(steps))
    return module.last.item()


def transformers(steps: int) -> float:
    from transformers import Trainer, TrainingArguments

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.last = make_model(), torch.zeros(())

        def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
            loss = F.cross_entropy(self.model(x), y)
            self.last = loss.detach()
            return {"loss": loss}

    class Rows(torch.utils.data.IterableDataset[dict[str, Tensor]]):
        def __iter__(self) -> Any:
            for ids in sample_ids(steps):
                for i in ids:
                    yield {"x": X[i], "y": Y[i]}

    model = Model()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=BATCH,
            max_grad_norm=CLIP,
            lr_scheduler_type="constant",
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        optimizers = (make_optimizer(model.model), None)
        Trainer(model=model, args=arguments, train_dataset=Rows(), optimizers=optimizers).train()
    return model.last.item()


class Batches:
    """The same batches for those who want something to iterate over."""

    def __init__(self, steps: int) -> None:
        self.ids = sample_ids(steps)

    def __iter__(self) -> Any:
        return ((X[ids], Y[ids]) for ids in self.ids)

    def __len__(self) -> int:
        return len(self.ids)


def trainkit(steps: int) -> float:
    folder = tempfile.TemporaryDirectory()
    settings = common.settings(folder.name, SmallTask(), steps, data=DataSettings(ledger=False, workers=0))
    run = RunFolder(Path(folder.name))
    run.config.touch()  # the tracker keeps it
    forwarder().send(folder.name)
    trainkit_main.fit(trainkit_main.with_data(settings), run, 1)
    forwarder().send(None)
    flushing.append(folder)
    return float(list(read_lines(run.metrics))[-1]["loss"])


flushing: list[tempfile.TemporaryDirectory[str]] = []
"""The folder of a run whose last rows are still on their way to MLflow."""


def settle() -> None:
    """Wait for them: what a real run does after its last step is no part of a step."""
    while flushing:
        if unsent := forwarder().recv():
            sys.exit(f"{unsent} rows did not reach MLflow")
        flushing.pop().cleanup()


@functools.cache
def forwarder() -> Connection:
    """The process that forwards rows of run folders to MLflow (sqlite): it is sent a folder, and None at the end."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    context.Process(target=_forward, args=(theirs,), daemon=True).start()
    theirs.close()  # else its death would not end a recv()
    ours.recv()  # MLflow is imported
    return ours


def _forward(pipe: Connection) -> None:
    from trainkit.protocols import RunInfo
    from trainkit.tracker.follower import Follower
    from trainkit.tracker.mlflow import Mlflow

    import_module("mlflow")
    with tempfile.TemporaryDirectory() as store:
        tracker = Mlflow(uri=f"sqlite:///{store}/mlflow.db", experiment="overhead")
        pipe.send(None)
        while True:
            info = RunInfo(folder=Path(pipe.recv()), name="overhead", params={}, tags={"trainkit.attempt": "1"})
            follower = Follower(tracker, info)
            follower.start()
            pipe.recv()
            pipe.send(follower.finish("FINISHED", timeout_s=60))


VARIANTS: dict[str, Callable[[int], float]] = {
    "bare": bare,
    "trainkit": trainkit,
    "fabric": fabric,
    "accelerate": accelerate,
    "transformers": transformers,
    "lightning": lightning,
}


def calls(run: Callable[[int], float], steps: int) -> float:
    """Python function calls per step: (calls of 2N steps - calls of N steps) / N."""

    def count(n: int) -> int:
        with probes.calls() as made:
            run(n)
            (total,) = made()
        settle()
        return int(total)

    run(2)
    settle()
    return (count(2 * steps) - count(steps)) / steps


def seconds(run: Callable[[int], float], steps: int) -> float:
    """Seconds of one step, start-up left out in the same way."""

    def timed(n: int) -> float:
        begin = time.perf_counter()
        run(n)
        took = time.perf_counter() - begin
        settle()
        return took

    once = timed(steps)
    return (timed(3 * steps) - once) / (2 * steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", type=lambda s: s.split(","), default=list(VARIANTS))
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    variants = {name: VARIANTS[name] for name in ["bare", *arguments.only] if name in VARIANTS}

    losses = {name: run(arguments.steps) for name, run in variants.items()}
    settle()
    print("final loss after", arguments.steps, "steps:", {n: round(v, 6) for n, v in losses.items()})
    wrong = {n: v for n, v in losses.items() if abs(v - losses["bare"]) > 1e-4}
    if wrong:
        sys.exit(f"not the same training: {wrong}")

    counted = {name: calls(run, 50) for name, run in variants.items()}
    print(f"\nPython calls per step above the bare loop ({counted['bare']:.0f})")
    for name, value in counted.items():
        print(f"  {name:14}{value - counted['bare']:+8.0f}")

    order = [*variants, "bare again"]
    times: dict[str, list[float]] = {name: [] for name in order}
    for name in rotated(order, arguments.rounds):
        times[name].append(seconds(VARIANTS[name.split()[0]], arguments.steps))
    print(f"\nus per step over bare, pair by pair in {arguments.rounds} rotated rounds: median [min, max]")
    for name in order[1:]:
        over = [1e6 * (a - b) for a, b in zip(times[name], times["bare"], strict=True)]
        ratio = statistics.median(a / b for a, b in zip(times[name], times["bare"], strict=True))
        print(f"  {name:14}{statistics.median(over):+8.0f} [{min(over):+.0f}, {max(over):+.0f}]   ratio {ratio:.2f}")
    print("  a difference inside the spread of 'bare again' says nothing")


if __name__ == "__main__":
    main()
