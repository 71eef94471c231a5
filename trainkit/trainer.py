"""The training loop. It names no strategy and no vendor.

resume -> evaluate, sample before
-> [ share of the next global batch -> agree on its weight -> forward_backward -> update
     -> evaluate? -> log? -> save? -> stop? ]*
-> sample after -> export
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from trainkit.checkpoint.store import CheckpointStore
from trainkit.data.ledger import Ledger
from trainkit.data.loader import load, loader
from trainkit.data.order import Order, derive
from trainkit.data.plan import Plan, Step, split
from trainkit.errors import CheckpointError, TrainkitError
from trainkit.export import export
from trainkit.metrics import Meter, MetricLog
from trainkit.protocols import Batch, Data, Engine, World
from trainkit.resilience.stop import StopFlag
from trainkit.runfolder import RunFolder, truncate_after
from trainkit.settings import Settings, name_of

Outcome = Literal["done", "stopped"]


@dataclass(slots=True)
class Progress:
    """Where a run stands; with the weights and moments, all that a checkpoint holds.

    samples  data position: samples consumed by all ranks together
    best     best eval_loss so far; `stale`: evaluations in a row that did not better it
    """

    step: int = 0
    samples: int = 0
    best: float | None = None
    stale: int = 0


class Trainer:
    """Trains `engine` on `data` as `settings` say, inside the run folder."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        world: World,
        data: Data,
        store: CheckpointStore,
        folder: RunFolder,
        stop: StopFlag,
    ) -> None:
        self.settings, self.train = settings, settings.train
        self.engine, self.world, self.data, self.store = engine, world, data, store
        self.folder, self.stop = folder, stop
        self.progress = Progress()
        self.metrics: dict[str, float] = {}
        order = Order(len(data.train), self.train.seed)
        self.plan = Plan(order, self.train.global_batch, self.train.micro_batch, world.dp_rank, world.dp_size)
        self.total = self.plan.total_steps(self.train.steps, self.train.epochs)
        self.save_failed = False

    def fit(self) -> Outcome:
        """Train from the newest good checkpoint, or from the start, to the last step or until asked to stop."""
        self.resume()
        self.log = MetricLog(self.folder.metrics, self.world)
        self.ledger = Ledger(self.folder, self.store.attempt, self.world) if self.settings.data.ledger else None
        self.event("start", step=self.progress.step, total_steps=self.total, **self.describe())
        if self.progress.step == 0:
            self.look()
        self.meter = Meter(self.world.device)
        outcome = self.loop()
        self.log.close()
        if outcome == "done":
            self.finish()
        return outcome

    def loop(self) -> Outcome:
        train, progress = self.train, self.progress
        scale, learning_rate = self.settings.schedule.factor, self.settings.optimizer.lr
        if self.exhausted():
            return "done"
        for step, share in self.batches():
            local = (sum([b.weight for b in share]), sum([b.tokens for b in share]), self.stop.raised)
            weight, tokens, stop = self.world.total(local)
            self.reseed(progress.step)
            lr = learning_rate * scale(progress.step, self.total)
            loss_sum = self.engine.forward_backward(share, weight)
            norm = self.engine.update(lr)
            progress.step, progress.samples = progress.step + 1, step.samples
            self.meter.add(tokens)
            if self.ledger is not None:
                self.ledger.write(progress.step, step)
            evaluate = self.data.heldout is not None and self.due(train.eval_every)
            if evaluate or progress.step % train.log_every == 0 or progress.step == self.total:
                row = {"step": progress.step, "samples": progress.samples, "lr": lr} | self.meter.read()
                if evaluate:
                    row |= self.evaluate()
                    self.meter.restart()
                self.log.train_row(row, loss_sum, weight, norm)
            early = self.exhausted()
            if stop or early or self.due(self.settings.checkpoint.every):
                self.save(last=bool(stop) or early or progress.step == self.total)
            if stop and progress.step < self.total:
                self.event("stop", step=progress.step)
                return "stopped"
            if early:
                break
        return "done"

    def exhausted(self) -> bool:
        """Whether train.patience evaluations in a row brought no better eval_loss."""
        return self.train.patience is not None and self.progress.stale >= self.train.patience

    def due(self, every: int | None) -> bool:
        """Whether something that happens every `every` steps, and after the last one, happens now."""
        return self.progress.step == self.total or (every is not None and self.progress.step % every == 0)

    def batches(self) -> Iterator[tuple[Step, list[Batch]]]:
        left = self.total - self.progress.step
        pin = self.world.device.type == "cuda"
        return loader(self.data.train, self.plan, self.progress.samples, left, self.settings.data.workers, pin)

    def reseed(self, step: int) -> None:
        """Random numbers (dropout) are a function of (seed, step, data-parallel rank): a resumed run draws what
        an uninterrupted one draws, and no generator state has to travel."""
        seed = derive(self.train.seed, step, self.world.dp_rank)
        torch.default_generator.manual_seed(seed)
        if self.world.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    # ------------------------------------------------------------------------------------- evaluation

    def look(self) -> None:
        """The held-out metrics and a sample before training: what the end is compared with."""
        if self.data.heldout is not None:
            self.log.row({"step": 0, "samples": 0, **self.evaluate(), "time": time.time()})
        self.sample("before")

    def sample(self, when: Literal["before", "after"]) -> None:
        text = self.engine.sample()
        if text is not None:
            self.event("sample", when=when, text=text)

    def evaluate(self) -> dict[str, float]:
        """The task's metrics over the held-out samples, each counted exactly once: eval_NAME = sum / weight."""
        sums, local_weight = self.engine.evaluate(self.heldout_batches())
        (weight,) = self.world.total([local_weight])
        if not weight:
            raise TrainkitError("nothing in the held-out set counts: the weights of its batches add up to 0")
        names = sorted(sums)
        values = self.world.reduce(torch.stack([sums[name] for name in names])).tolist()
        self.metrics = {f"eval_{name}": value / weight for name, value in zip(names, values, strict=True)}
        loss, progress = self.metrics.get("eval_loss"), self.progress
        if loss is not None:
            better = progress.best is None or loss < progress.best
            progress.best, progress.stale = (loss, 0) if better else (progress.best, progress.stale + 1)
        return self.metrics

    def heldout_batches(self) -> Iterable[Batch]:
        source, world = self.data.heldout, self.world
        if source is None:
            return
        size = self.train.micro_batch or -(-self.train.global_batch // world.dp_size)
        micro_batches, real = split(range(len(source)), world.dp_rank, world.dp_size, size)
        for ids, counts in zip(micro_batches, real, strict=True):
            yield load(source, Step([ids], [counts], 0))[1][0]

    # ------------------------------------------------------------------------------------ checkpoints

    def resume(self) -> None:
        """Go on from the newest good checkpoint, and forget what a lost attempt logged after it."""
        found = None if self.settings.resume == "never" else self.store.latest()
        if found is None and self.settings.resume == "must":
            raise CheckpointError(f"resume=must, but there is no checkpoint in {self.store.folder}")
        if found is not None:
            state = self.engine.state_dict()
            self.progress = Progress(**self.store.load(found, state)["progress"])
            self.engine.load_state_dict(state)
        if self.world.rank == 0:
            kept = self.progress.step if found is not None else -1
            for journal in (self.folder.metrics, *self.folder.root.glob("ledger/*/*.jsonl")):
                truncate_after(journal, kept)
        self.world.barrier()

    def save(self, last: bool) -> None:
        """Write a checkpoint. One that fails is reported and the run goes on; a second in a row, or one at the
        end, raises."""
        self.log.flush()
        trainer = {"progress": asdict(self.progress), "metrics": self.metrics}
        try:
            saved = self.store.save(self.progress.step, self.engine.state_dict(), trainer)
        except CheckpointError as error:
            self.event("save_failed", step=self.progress.step, message=str(error))
            if last or self.save_failed:
                raise
            self.save_failed = True
        else:
            self.save_failed = False
            self.event(
                "save", step=saved.step, path=str(saved.path), seconds=round(saved.seconds, 3), bytes=saved.bytes
            )
            keep = self.settings.checkpoint
            self.store.prune(keep.keep, keep.metric, keep.mode)
        self.meter.restart()

    def finish(self) -> None:
        """Show what the model does now and write it for use without trainkit."""
        self.sample("after")
        checkpoint = self.store.latest()
        if checkpoint is None:
            raise CheckpointError(f"nothing to export: there is no checkpoint in {self.store.folder}")
        if self.world.rank == 0:
            export(self.settings, self.store, checkpoint, self.folder.model, self.train.ema is not None)
        self.world.barrier()

    # ----------------------------------------------------------------------------------------- events

    def event(self, kind: str, **fields: Any) -> None:
        if self.world.rank == 0:
            self.folder.event(kind, **fields)

    def describe(self) -> dict[str, Any]:
        parameters, trainable = self.engine.size()
        return {
            "attempt": self.store.attempt,
            "strategy": name_of(self.settings.strategy),
            "ranks": self.world.size,
            "device": self.world.device.type,
            "parameters": parameters,
            "trainable": trainable,
        }
