"""What a rank has and sends in a step, for any number of micro-batches and any size of them, from a few small
simulations (trainkit/simulation): a step is alike from micro-batch to micro-batch, and a model from layer to layer.

    one micro-batch, and two         what one more adds
    one layer of a stage, and two    what one more adds, where the recipe says that its layers are alike
    one sample in a micro-batch      activations grow with their number; so does what the axes that divide them send

A pipeline is simulated with GPipe, which takes any number of micro-batches; how many are under way at once says the
schedule. Its first stage and its last are looked at: one has the most micro-batches under way, the other the logits.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

from trainkit.preflight import Layered
from trainkit.protocols import Batch, Task, Training
from trainkit.settings import Settings
from trainkit.simulation.fake import shapes_of
from trainkit.simulation.simulate import simulate
from trainkit.simulation.values import Collective, Rank, Simulation
from trainkit.simulation.whole import Alone, Evaluate, alone
from trainkit.strategy._axes import Axes
from trainkit.strategy._meshed import Meshed
from trainkit.strategy._stages import sections
from trainkit.strategy._zero import Zero
from trainkit.strategy.ddp import Ddp
from trainkit.strategy.mesh import Mesh
from trainkit.strategy.pipeline import Pipeline

BY_TOKENS = ("tensor", "context", "pipeline")
"""Axes on which activations travel; on the others it is weights and gradients."""
BUCKET, LIVE = 4 * 5e8, 4 * 1e9
"""Bytes at which DeepSpeed by default sends the gradients that it has collected, and of what ZeRO 3 keeps gathered
(reduce_bucket_size and stage3_max_live_parameters, in elements)."""
Numbers = dict[tuple[str, ...], float]
"""Bytes by kind of memory, and count and payload of collectives by kind and axis."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """Of the rank with the most, in bytes. `activations` are of the micro-batches under way, `each` of one of them."""

    parameters: float
    gradients: float
    moments: float
    activations: float
    each: float
    buffers: float
    peak: float
    collectives: tuple[Collective, ...]


class Once:
    """whole.alone for a plan: once for all strategies, and with one micro-batch, as all of them are alike."""

    def __init__(self) -> None:
        self._made: list[tuple[Training, Alone]] = []

    def __call__(self, training: Training, share: Sequence[Batch]) -> Alone:
        for known, found in self._made:
            if known == training:
                return found
        self._made.append((training, alone(training, share[:1])))
        return self._made[-1][1]


class Figures:
    """Of `settings` on `ranks` ranks. Raises what `simulate` raises."""

    def __init__(self, settings: Settings, ranks: int, evaluate: Evaluate = alone) -> None:
        self.settings, self.ranks, self._evaluate = settings, ranks, evaluate
        self.readers = settings.strategy.dp_size(ranks)
        self._depth = self._alike()
        self._sizes: dict[tuple[str, ...], int] = {}
        self._made: dict[tuple[int, int | None], Simulation] = {}

    @cached_property
    def axes(self) -> Axes:
        """Those of the mesh; without one all ranks are replicas."""
        strategy = self.settings.strategy
        if isinstance(strategy, Meshed):
            return strategy.axes(self.ranks).fill(self.ranks)
        return Axes(replicas=self.ranks)

    def _alike(self) -> list[int] | None:
        """The layers of each stage of the pipeline, if a shallow model tells what a deep one needs."""
        recipe, stages = self.settings.recipe, self.axes.pipeline
        shape = recipe.model_shape()
        if shape is None or shape.layers < 3 * stages or not isinstance(recipe, Layered):
            return None
        if stages == 1 or not isinstance(self.settings.strategy, Meshed):
            return [shape.layers]
        staging = self.settings.strategy.staging()
        found, _ = sections(recipe, shapes_of(recipe), stages, staging.cut if staging.virtual_stages == 1 else None)
        return [end - first for first, end in pairwise(found.bounds)]

    def load(self, samples: int, passes: int) -> Load:
        """With `passes` micro-batches of `samples` samples per step."""
        if self.axes.pipeline == 1:
            return self._load(self._reckoned(passes, 0), samples, passes, 1)
        ends = [(stage, passes if self._gpipe else min(passes, self.axes.pipeline - stage)) for stage in self._ends]
        loads = [self._load(self._reckoned(passes, stage), samples, passes, flight) for stage, flight in ends]
        return max(loads, key=lambda load: load.peak)

    @property
    def _ends(self) -> tuple[int, int]:
        return 0, self.axes.pipeline - 1

    @property
    def _gpipe(self) -> bool:
        return isinstance(self.settings.strategy, Meshed) and self.settings.strategy.staging().schedule == "gpipe"

    def _load(self, numbers: Numbers, samples: int, passes: int, flight: int) -> Load:
        memory = {key[1]: value for key, value in numbers.items() if key[0] == "memory"}
        collectives = tuple(self._collectives(numbers, samples))
        each = memory["activations"] * samples
        copies = memory["copies"] * flight
        gathered = self._gathered(collectives, memory)
        held = memory["gradients"] if passes > 1 or isinstance(self.settings.strategy, (Ddp, Zero)) else 0.0
        held = max(held, memory["accumulated"])
        forward = each * flight + copies + held
        backward = memory["gradients"] + memory["accumulated"]
        always = memory["weights"] + memory["moments"] + memory["average"]
        return Load(
            parameters=memory["weights"],
            gradients=memory["gradients"],
            moments=memory["moments"],
            activations=each * flight,
            each=each,
            buffers=memory["accumulated"] + memory["average"] + copies + gathered,
            peak=always + max(forward + gathered, backward),
            collectives=collectives,
        )

    def _collectives(self, numbers: Numbers, samples: int) -> list[Collective]:
        found = []
        for key, size in self._sizes.items():
            kind, axis = key
            larger = samples if axis in BY_TOKENS else 1
            count, payload = numbers.get(("count", *key), 0.0), numbers.get(("payload", *key), 0.0)
            found.append(
                Collective(kind=kind, axis=axis, ranks=size, count=round(count), payload=round(payload * larger))
            )
        return found

    def _gathered(self, collectives: tuple[Collective, ...], memory: Mapping[str, float]) -> float:
        """Weights that are whole for a while, and their gradients: of the layer at work, of the next one, and of what
        is around the layers; or of all, where they stay until backward."""
        strategy = self.settings.strategy
        if isinstance(strategy, Zero):
            whole = max((c.payload / c.count for c in collectives if c.kind == "all_gather" and c.count), default=0.0)
            live = min(whole, LIVE) if strategy.spread().stage == 3 else 0.0
            return min(whole, BUCKET) + live
        gathers = [c for c in collectives if c.kind == "all_gather" and c.axis == "shard" and c.count and c.ranks > 1]
        if not gathers or not isinstance(strategy, Meshed):
            return 0.0
        one = sum(c.payload / c.count for c in gathers)
        if strategy.sharding().reshard_after_forward:
            return 5 * one
        return memory["weights"] * self.axes.sizes()["shard"] + 2 * one

    # ------------------------------------------------------------------------------------ simulations

    def _reckoned(self, passes: int, stage: int) -> Numbers:
        """With `passes` micro-batches. Memory does not grow with them, but for gradients that wait in between."""
        layers = self._layers(stage)
        one = self._point(1, 1 if layers else None, stage)
        found = dict(one)
        if layers:
            other = self._point(1, 2, stage)
            found = {k: one.get(k, 0.0) + (layers - 1) * (other[k] - one.get(k, 0.0)) for k in other}
        if passes == 1:
            return found
        two, gradients = self._point(2, 1 if layers else None, stage), ("memory", "gradients")
        waiting = two["memory", "accumulated"]
        if waiting and not one["memory", "accumulated"]:  # of layers: whole along the axes that divide them
            found["memory", "accumulated"] = waiting + self.axes.sizes()["shard"] * (found[gradients] - one[gradients])
        return {key: value * (1 + (passes - 1) * _growth(one, two, key)) for key, value in found.items()}

    def _layers(self, stage: int) -> int | None:
        """How many a rank has, where they are all alike."""
        return None if self._depth is None else self._depth[0 if stage == 0 else -1]

    def _point(self, passes: int, layers: int | None, stage: int) -> Numbers:
        stages = self.axes.pipeline
        with quiet():
            if (passes, layers) not in self._made:
                self._made[passes, layers] = self._simulate(passes, layers)
            numbers = self._numbers(self._made[passes, layers].rank(stage * (self.ranks // stages)))
        if stages > 1:  # all micro-batches were under way at once
            for kind in ("activations", "copies"):
                numbers["memory", kind] /= passes
        return numbers

    def _simulate(self, passes: int, layers: int | None) -> Simulation:
        """`layers` of each stage; None: all there are."""
        settings, stages = self.settings, self.axes.pipeline
        recipe: Task = settings.recipe
        strategy = settings.strategy
        if layers is not None and isinstance(recipe, Layered):
            recipe = recipe.with_layers(layers * stages)
        if isinstance(strategy, (Mesh, Pipeline)) and stages > 1:
            equal: list[int | str] | None = None if layers is None else [layers * n for n in range(1, stages)]
            strategy = replace(strategy, schedule="gpipe", virtual_stages=1, cut=equal)
        train = replace(settings.train, global_batch=self.readers * passes, micro_batch=1)
        return simulate(replace(settings, recipe=recipe, strategy=strategy, train=train), self.ranks, self._evaluate)

    def _numbers(self, rank: Rank) -> Numbers:
        found: Numbers = {("memory", k): float(v) for k, v in rank.memory.kinds().items()}
        for c in rank.collectives:
            self._sizes[c.kind, c.axis] = c.ranks
            found["count", c.kind, c.axis] = float(c.count)
            found["payload", c.kind, c.axis] = float(c.payload)
        return found


@contextmanager
def quiet() -> Iterator[None]:
    """What a strategy would say to the person who runs it, with so few micro-batches, is no news here."""
    log = logging.getLogger("trainkit.strategy")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)


def _growth(one: Numbers, two: Numbers, key: tuple[str, ...]) -> float:
    """By which part of what one micro-batch has each further one adds to it. What is kept for backward is let go."""
    if key[0] == "memory" or not one.get(key):
        return 0.0
    return (two.get(key, 0.0) - one[key]) / one[key]
