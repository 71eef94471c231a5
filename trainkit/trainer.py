"""The training loop. It names no strategy and no vendor.

resume -> evaluate, sample before
-> [ share of the next global batch -> agree on its weight -> forward_backward -> update
     -> evaluate? -> log? -> go back? -> save? -> stop? ]*
-> sample after -> export
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from trainkit.checkpoint.manifest import read_manifest
from trainkit.checkpoint.saver import Saver
from trainkit.checkpoint.snapshots import Snapshots
from trainkit.checkpoint.store import CheckpointStore
from trainkit.data.ledger import Ledger
from trainkit.data.loader import load, loader
from trainkit.data.order import Order
from trainkit.data.plan import Plan, Step, split
from trainkit.data.seed import reseed
from trainkit.errors import CheckpointError, TrainkitError
from trainkit.export import export
from trainkit.handshake import digests
from trainkit.metrics import Meter, MetricLog, over_all_ranks
from trainkit.progress import Progress
from trainkit.protocols import Batch, Data, Engine, Outcome, World
from trainkit.rescue import Pocket, fill_in, hand_over, keep
from trainkit.resilience.guard import Guard
from trainkit.resilience.pulse import Lifeline
from trainkit.resilience.stragglers import Stragglers
from trainkit.runfolder import RunFolder, truncate_after
from trainkit.settings import Settings, name_of


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
        lifeline: Lifeline,
    ) -> None:
        self.settings, self.train = settings, settings.train
        self.engine, self.world, self.data, self.store = engine, world, data, store
        self.folder, self.lifeline, self.pocket = folder, lifeline, Pocket()
        self.snapshots = Snapshots(store, folder, world, settings.checkpoint.memory_every, self.event)
        self.progress, self.guard = Progress(), Guard(settings.anomaly)
        self.stragglers = Stragglers(world, settings, self.event)
        self.between = True  # two steps: the state is that of progress.step
        self.metrics: dict[str, float] = {}
        self.written_by: int | None = None  # the attempt whose state this one goes on from
        self.given_by: int | None = None  # the rank that had kept it, where it is no checkpoint
        order = Order(len(data.train), self.train.seed)
        self.plan = Plan(order, self.train.global_batch, self.train.micro_batch, world.dp_rank, world.dp_size)
        self.total = self.plan.total_steps(self.train.steps, self.train.epochs)

    def fit(self, pocket: Pocket | None = None) -> Outcome:
        """Train from what is in the `pocket` of a rank, the newest good checkpoint, or the start, to the last step or
        until asked to stop. A fault leaves in the pocket what can be gone on from."""
        self.pocket = pocket or self.pocket
        self.resume()
        self.begun = self.progress.step
        self.lifeline.beat(self.begun, "starting")
        self.log = MetricLog(self.folder.metrics, self.world)
        self.ledger = Ledger(self.folder, self.store.attempt, self.world) if self.settings.data.ledger else None
        self.event("start", step=self.progress.step, total_steps=self.total, **self.describe())
        if self.progress.step == 0:
            self.before()
        self.meter = Meter(self.world.device)
        self.pocket.kept = None  # only now: until here a fault finds it there
        outcome: Outcome | None = None
        while outcome is None:
            keep, samples = self.settings.checkpoint, self.progress.samples
            try:
                with Saver(self.store, self.snapshots, keep, self.world.rank, samples, self.event) as self.saver:
                    outcome = self.loop_watched()
            except Exception as error:
                self.hold(error)
                self.log.abandon()
                raise
            if outcome is None:
                self.go_back()
        self.log.close()
        if outcome == "done":
            self.finish()
        return outcome

    def loop_watched(self) -> Outcome | None:
        """The loop; how it ended is known to whoever watches before the save in flight is waited for."""
        try:
            outcome = self.loop()
        except Exception:
            self.lifeline.beat(self.progress.step, "rescuing")
            raise
        if outcome is None:
            self.lifeline.beat(self.progress.step, "starting")
        return outcome

    def loop(self) -> Outcome | None:
        """Steps up to the end of the run, or until too many of them were bad: None."""
        train, progress, learning_rate = self.train, self.progress, self.settings.optimizer.lr
        if self.exhausted() or progress.step == self.total:
            if self.given_by is not None:  # the attempt before had made the last step, and not saved it
                self.preserve(True, last=True, good=True)
            return "done"
        stop, beat, first = self.lifeline.stop, self.lifeline.beat, progress.step + 1
        for step, share in self.batches():
            beat(progress.step + 1, "training", self.meter.waited)
            here = sum([b.weight for b in share]), sum([b.tokens for b in share])
            weight, tokens, stopping, wishes = self.world.total((*here, stop.raised, self.saver.wish()))
            lr = learning_rate * self.settings.schedule.factor(progress.step, self.total)
            number = progress.step + 1
            evaluates = self.data.heldout is not None and self.due(number, train.eval_every)
            logs = evaluates or self.due(number, train.log_every)
            train_step = self.timed_step if self.stragglers.due(number) else self.train_step
            trained = train_step(step, share, weight, lr, logs)
            progress.step, progress.samples, self.between = number, step.samples, True
            self.meter.add(tokens)
            if self.ledger is not None:
                self.ledger.write(number, step, skipped=trained is None)
            if logs:
                row = {"step": number, "samples": step.samples, "lr": lr} | self.meter.read()
                self.log_row(row, weight, trained, evaluates)
            if number == first:
                self.lifeline.trains()
            early = self.exhausted()
            last = bool(stopping) or early or progress.step == self.total
            if self.guard.gives_up(progress.health) and not stopping:
                return None
            saving = self.saver.due(progress.step, step.samples, tokens, wishes) and trained is not None
            if last and not saving:
                saving = not self.has_something_better()
                if not saving and not stopping:
                    return None
            self.preserve(saving, last, good=trained is not None)
            if stopping and progress.step < self.total:
                self.event("stop", step=progress.step)
                return "stopped"
            if early:
                break
        return "done"

    def timed_step(self, *step: Any) -> tuple[Tensor, Tensor] | None:
        """The same as train_step, and a look at whether a rank is slow. Collective."""
        with self.stragglers.timing(self.progress.step + 1, self.meter.waited):
            return self.train_step(*step)

    def train_step(
        self, step: Step, share: list[Batch], weight: float, lr: float, logs: bool
    ) -> tuple[Tensor, Tensor] | None:
        """Train the next global batch. Returns its loss sum (over all ranks if `logs`) and the norm of its gradient;
        None if it is to be skipped, or bad, which leaves everything as it was."""
        health, number = self.progress.health, self.progress.step + 1
        if number in health.skipped:
            return None
        reseed(self.train.seed, self.progress.step, self.world)
        loss_sum = self.engine.forward_backward(share, weight)
        if logs or self.settings.anomaly.spike is not None:
            loss_sum = self.summed(loss_sum)
        why = self.spike(loss_sum, weight) if self.settings.anomaly.spike is not None else None
        if why is None:
            self.between = False
            norm = self.engine.update(lr)
            if math.isfinite(norm.item()):
                health.bad = 0
                return loss_sum, norm
            why = f"the norm of its gradient is {norm.item()}"
        else:
            self.engine.discard()
        self.guard.bad(health, why)
        self.event("bad_step", step=number, why=why, samples=[self.progress.samples, step.samples])
        return None

    def summed(self, loss_sum: Tensor) -> Tensor:
        """The loss sum over all ranks. If it shows here that one is gone, the batch leaves nothing behind."""
        try:
            return over_all_ranks(loss_sum, self.world)
        except Exception:
            self.engine.discard()
            raise

    def has_something_better(self) -> bool:
        """Whether the newest steps were bad and there is a checkpoint of good ones to go back to: then this state is
        not to be kept when the run ends, or is asked to stop. Collective if they were bad."""
        return self.progress.health.bad > 0 and self.guard.may_go_back() and self.saver.exists()

    def spike(self, loss_sum: Tensor, weight: float) -> str | None:
        """Why the loss of a global batch speaks against training it; None if it does not, or nothing counts."""
        return self.guard.spike(self.progress.health, loss_sum.item() / weight) if weight else None

    def log_row(
        self, row: dict[str, Any], weight: float, trained: tuple[Tensor, Tensor] | None, evaluates: bool
    ) -> None:
        """Log a step, with what it came to if it was trained."""
        if evaluates:
            row |= self.look()
            self.meter.restart()
        if trained is None:
            self.log.row(row | {"skipped": 1})
        else:
            self.log.train_row(row, weight, *trained)

    def compare(self, saving: bool) -> None:
        """Let no checkpoint be written from parameters that have come apart: it is what a run goes back to."""
        every = self.settings.integrity.every
        if every is not None and (saving or self.progress.step % every == 0):
            self.engine.compare()

    def exhausted(self) -> bool:
        """Whether train.patience evaluations in a row brought no better eval_loss."""
        return self.train.patience is not None and self.progress.stale >= self.train.patience

    def due(self, step: int, every: int | None) -> bool:
        """Whether something that happens every `every` steps, and after the last one, happens after `step`."""
        return step == self.total or (every is not None and step % every == 0)

    def batches(self) -> Iterator[tuple[Step, list[Batch]]]:
        """The steps that are left; what the loop waits for them is measured."""
        left, pin, clock = self.total - self.progress.step, self.world.device.type == "cuda", time.perf_counter
        begun = clock()
        for loaded in loader(self.data.train, self.plan, self.progress.samples, left, self.settings.data.workers, pin):
            self.meter.waited += clock() - begun
            yield loaded
            begun = clock()

    # ------------------------------------------------------------------------------------- evaluation

    def before(self) -> None:
        """The held-out metrics and a sample before training: what the end is compared with."""
        if self.data.heldout is not None:
            self.log.row({"step": 0, "samples": 0, **self.look(), "time": time.time()})
        self.sample("before")

    def look(self) -> dict[str, float]:
        """What a row tells of an evaluation: its metrics, and the seconds that it took."""
        begun = time.perf_counter()
        metrics = self.evaluate()
        return metrics | {"evaluation_seconds": round(time.perf_counter() - begun, 3)}

    def sample(self, when: Literal["before", "after"]) -> None:
        if (text := self.engine.sample()) is not None:
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
            self.lifeline.beat(self.progress.step, "evaluating")
            yield load(source, Step([ids], [counts], 0))[1][0]

    # ------------------------------------------------------------------------------------ checkpoints

    def resume(self) -> None:
        """Go on from what a rank has kept of the attempt before, else from the newest good checkpoint, if any."""
        given = hand_over(self.pocket.kept, self.engine, self.world, self.store.as_new_as)
        if given is not None:
            kept, self.given_by = given
            self.stand(kept.trainer, kept.attempt)
            self.forget_after(kept.step)
            if self.world.rank == 0:
                fill_in(self.folder, kept, self.settings, len(self.data.train))
            return
        found = None if self.settings.resume == "never" else self.snapshots.or_newer()
        if found is None and self.settings.resume == "must":
            raise CheckpointError(f"resume=must, but there is no checkpoint in {self.store.folder}")
        self.restore(found)
        self.snapshots.settle(found)

    def go_back(self) -> None:
        """To the newest checkpoint, after too many bad steps. Raises TrainkitError if that was done often enough.
        A snapshot is too young to heal what went wrong, so only without another it is one."""
        found, before = self.store.latest() or self.snapshots.newest(), self.progress
        saved = None if found is None else read_manifest(found)["step"]
        skip = self.guard.go_back(before.health, saved, before.step)
        self.log.close()  # its file is about to be replaced
        self.restore(found)
        self.snapshots.settle(found)
        self.log = MetricLog(self.folder.metrics, self.world)
        health = self.progress.health
        health.bad, health.skipped = 0, sorted({*before.health.skipped, *health.skipped, *skip})
        self.event("rollback", step=before.step, to=saved, skipped=skip)

    def restore(self, found: Path | None) -> None:
        """Stand where the checkpoint `found` was made (None: at the start), and forget what was logged after it."""
        if found is not None:
            state = self.engine.state_dict()
            saved = self.store.load(found, state)
            self.engine.load_state_dict(state)
            self.stand(saved, read_manifest(found).get("attempt"))
        self.forget_after(self.progress.step if found is not None else -1)

    def stand(self, small: Mapping[str, Any], attempt: int | None) -> None:
        """Where the state stands that `attempt` has left; the tensors are there already."""
        self.progress, self.metrics, self.written_by = Progress.read(small["progress"]), small["metrics"], attempt

    def forget_after(self, step: int) -> None:  # of what was logged
        if self.world.rank == 0:
            for journal in (self.folder.metrics, *self.folder.root.glob("ledger/*/*.jsonl")):
                truncate_after(journal, step)
        self.world.barrier()

    def preserve(self, saving: bool, last: bool, good: bool) -> None:
        """After a step: save it if it is to be saved, else take a snapshot if one is due and the step was `good`."""
        snapshot = good and not saving and not last and self.saver.snapshot_due(self.progress.step)
        self.compare(saving or snapshot)
        if not saving and not snapshot:
            return
        self.log.flush()
        self.lifeline.beat(self.progress.step, "saving")
        what = self.progress.step, self.engine.state_dict, self.small_state()
        if saving:
            self.saver.save(*what, last)
        else:
            self.saver.snapshot(*what)
        self.meter.restart()

    def small_state(self) -> dict[str, Any]:  # what a checkpoint holds besides the engine's tensors
        return {"progress": asdict(self.progress), "metrics": self.metrics}

    def hold(self, fault: Exception) -> None:
        """Keep the newest step for the next attempt (rescue.py). What goes wrong in that hides nothing of the fault."""
        unsure = self.progress.health.bad > 0 or self.settings.integrity.every is not None  # that has to be compared
        if isinstance(fault, TrainkitError) or unsure or not self.between:
            return
        step = self.progress.step
        logs = self.due(step, self.train.log_every) or (self.data.heldout and self.due(step, self.train.eval_every))
        try:
            row = self.log.newest() if logs and step > self.begun else None
            if not logs or step == self.begun or (row is not None and row["step"] == step):  # else it is evaluated now
                made = step, self.store.attempt if step > self.begun else self.written_by or 0
                writers = self.ledger.writers if self.ledger is not None else ()
                self.pocket.kept = keep(
                    self.engine, self.world, self.store.about, self.small_state(), made, writers, row
                )
        except Exception as error:
            self.store.say(f"step {step} cannot be kept: {type(error).__name__}: {error}")

    def finish(self) -> None:
        """Show what the model does now and write it for use without trainkit."""
        self.lifeline.beat(self.progress.step, "finishing")
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
        return {
            "attempt": self.store.attempt,
            "from_attempt": self.written_by,
            "given_by": self.given_by,
            "strategy": name_of(self.settings.strategy),
            "ranks": self.world.size,
            "device": self.world.device.type,
            **(digests(self.data) if self.world.rank == 0 else {}),  # who tells it; it fetches samples
            "log_every": self.train.log_every,
            **dict(zip(("parameters", "trainable"), self.engine.size(), strict=True)),
        }
