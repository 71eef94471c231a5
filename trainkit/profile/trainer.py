"""The training loop with a profiler in it: a few steps, of which it marks the parts. It evaluates nothing before them,
saves nothing after them, and leaves no model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from trainkit.data.plan import Step
from trainkit.errors import ConfigError, Problem
from trainkit.profile.order import read, trace
from trainkit.profile.trace import mark
from trainkit.protocols import Batch, Engine
from trainkit.trainer import Trainer


class ProfiledTrainer(Trainer):
    """Trains as many steps as RUN/profile/order.json says, and records the last of them."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.order = read(self.folder)
        before = self.order.warmup
        if self.total <= before:
            found = f"a profile records what comes after the first {before} steps, and the run has {self.total}"
            raise ConfigError([Problem("train.steps", self.train.steps, found, "let it be longer")])
        self.total = min(self.total, before + self.order.steps)
        self.engine = cast(Engine, Marked(self.engine))

    def batches(self) -> Iterator[tuple[Step, list[Batch]]]:
        loaded = super().batches()
        with self.recording() as profiler:
            while True:
                with record_function(mark("data")):
                    found = next(loaded, None)
                if found is None:
                    return
                yield found
                if profiler is not None:
                    profiler.step()

    def recording(self) -> AbstractContextManager[profile | None]:
        """The profiler of this rank, if it has one. What a profiler needs at its own start, it does in a step before
        those that count."""
        order, world = self.order, self.world
        if world.rank > 0 and not order.every_rank:
            return nullcontext()
        on_gpu = [ProfilerActivity.CUDA] if world.device.type == "cuda" else []
        path = str(trace(self.folder, world.rank))
        return profile(
            activities=[ProfilerActivity.CPU, *on_gpu],
            schedule=schedule(wait=order.warmup - 1, warmup=1, active=self.total - order.warmup, repeat=1),
            on_trace_ready=lambda recorded: recorded.export_chrome_trace(path),
        )

    def due(self, step: int, every: int | None) -> bool:
        """The last step is one like the others."""
        return every is not None and step % every == 0

    def preserve(self, saving: bool, last: bool, good: bool) -> None:
        with record_function(mark("checkpoint")):
            super().preserve(saving and not last, last, good)

    def before(self) -> None:
        pass

    def finish(self) -> None:
        pass


class Marked:
    """An engine whose parts of a step are marked in the trace."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def forward_backward(self, share: Sequence[Batch], weight: float) -> Tensor:
        with record_function(mark("forward")):  # what autograd does in it is backward
            return self._engine.forward_backward(share, weight)

    def update(self, lr: float) -> Tensor:
        with record_function(mark("optimizer")):
            return self._engine.update(lr)
