"""The checked configuration of one run: what config.yaml says, as objects."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt

from trainkit.protocols import Launcher, Optimizer, Precision, Schedule, Strategy, Task, Tracker

Positive = Annotated[int, Gt(0)]


@dataclass(frozen=True, kw_only=True)
class Run:
    """run.*: where the run lives."""

    dir: str


@dataclass(frozen=True, kw_only=True)
class Train:
    """train.*: what a step means; the same under every strategy and rank count.

    Exactly one of `steps` (optimizer steps) and `epochs` is set.
    """

    steps: Positive | None
    epochs: Annotated[float, Gt(0)] | None
    global_batch: Positive
    micro_batch: Positive | None
    seed: Annotated[int, Ge(0)]
    clip_norm: Annotated[float, Gt(0)] | None
    precision: Precision
    device: Literal["auto", "cpu", "cuda"]
    log_every: Positive
    eval_every: Positive | None
    patience: Positive | None
    ema: Annotated[float, Gt(0), Lt(1)] | None
    activation_checkpointing: bool
    compile: bool


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """checkpoint.*: when, where and how many.

    every   steps between two saves; null saves at the end only
    keep    how many of the newest stay
    best    besides them, the one with the lowest (`mode: min`) or highest `metric` stays
    dir     null: RUN/checkpoints
    """

    every: Positive | None
    keep: Positive
    metric: str | None
    mode: Literal["min", "max"]
    dir: str | None


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """data.*: the ledger of trained sample ids, and background loading."""

    ledger: bool
    workers: Annotated[int, Ge(0)]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One run, whole. Field names are the top-level keys of the configuration."""

    name: str
    run: Run
    resume: Literal["auto", "never", "must"]
    train: Train
    checkpoint: Checkpoint
    data: DataSettings
    optimizer: Optimizer
    schedule: Schedule
    strategy: Strategy
    launcher: Launcher
    tracker: Tracker
    recipe: Task


def name_of(component: object) -> str:
    """What a component is called in the configuration: its class, in small letters."""
    return type(component).__name__.lower()


def fixed_keys(settings: Settings) -> dict[str, Any]:
    """What must stay as it is while a run goes on, by dotted key: the samples, their order, and the model depend on
    it."""
    recipe: dict[str, Any] = asdict(settings.recipe)  # type: ignore[call-overload]  # config.build refuses others
    keys = {f"recipe.{key}": value for key, value in recipe.items() if key not in settings.recipe.free}
    return keys | {"train.seed": settings.train.seed, "train.global_batch": settings.train.global_batch}
