"""The checked configuration of one run: what config.yaml says, as objects."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt

from trainkit.protocols import Launcher, Optimizer, Precision, Schedule, Strategy, Task, Tracker

Positive = Annotated[int, Gt(0)]


@dataclass(frozen=True, kw_only=True)
class Run:
    """run.*: where the run lives, and what lets a command save and leave.

    max_hours  after so many; null: never
    signals    these too, besides Ctrl-C and SIGTERM
    """

    dir: str
    max_hours: Annotated[float, Gt(0)] | None
    signals: tuple[Literal["USR1", "USR2", "HUP", "XCPU"], ...]


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

    every         steps between two saves, or what checkpoint/cadence.py reads; null saves at the end only
    mtbf_hours    mean time between failures of the whole run; for `every: auto`
    memory_every  steps between two snapshots in memory (checkpoint/snapshots.py); null: none
    asynchronous  training stands still for a copy only, which is then written beside it
    max_failures  so many saves in a row that fail end the run
    keep          how many of the newest stay
    keep_every    besides them, the first one of every so many steps stays for ever
    metric        besides them, the one with the lowest (`mode: min`) or highest value of it stays
    dir           null: RUN/checkpoints
    """

    every: Positive | str | None
    mtbf_hours: Annotated[float, Gt(0)]
    memory_every: Positive | None
    asynchronous: bool
    max_failures: Positive
    keep: Positive
    keep_every: Positive | None
    metric: str | None
    mode: Literal["min", "max"]
    dir: str | None


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """data.*: the ledger of trained sample ids, and background loading."""

    ledger: bool
    workers: Annotated[int, Ge(0)]


@dataclass(frozen=True, kw_only=True)
class Anomaly:
    """anomaly.*: which steps are bad besides those whose gradient is not finite, and what follows.

    spike      robust standard deviations above the losses before, from which on a loss is bad; null: none is
    patience   so many bad steps in a row send the run back to its newest checkpoint
    rollbacks  how often that may happen before the run ends
    """

    spike: Annotated[float, Gt(0)] | None
    patience: Positive
    rollbacks: Annotated[int, Ge(0)]


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """recovery.*: how often a run restarts by itself.

    killed, raised, hung   restarts in a row without a new checkpoint, after a rank was ended by a signal, raised an
                           error, made no step in the watchdog's time
    corrupt                the same after integrity.every found ranks whose parameters differ
    repeats                how often in a row the same failure in the same step ends the run, whatever is left
    place                  how often in a row the rank of one place may be killed or hang before that place is left out,
                           where launcher.ranks is a span; after rest_s seconds it is taken in again
    pause_s                before the second restart in a row; twice that before the third, and so on up to a minute
    """

    killed: Annotated[int, Ge(0)]
    raised: Annotated[int, Ge(0)]
    hung: Annotated[int, Ge(0)]
    corrupt: Annotated[int, Ge(0)]
    repeats: Positive
    pause_s: Annotated[float, Ge(0)]
    place: Positive
    rest_s: Annotated[float, Ge(0)]


@dataclass(frozen=True, kw_only=True)
class Watchdog:
    """watchdog.*: after how many seconds without a sign of any rank a run is taken for hung.

    timeout  in a step; null: ten times the median step, and at least 60
    slow     in what is no step (start, evaluation, checkpoint, export), and in the first steps
    """

    timeout: Annotated[float, Gt(0)] | None
    slow: Annotated[float, Gt(0)]


@dataclass(frozen=True, kw_only=True)
class Straggler:
    """straggler.*: which ranks are told to be slow.

    every  steps between two looks; null: never
    times  as long as the others, for what a rank does alone
    looks  so often in a row
    """

    every: Positive | None
    times: Annotated[float, Gt(1)]
    looks: Positive


@dataclass(frozen=True, kw_only=True)
class System:
    """system.*: how busy processors, memory, network and GPUs of every machine are, every so many seconds."""

    every: Annotated[float, Gt(0)] | None


@dataclass(frozen=True, kw_only=True)
class Integrity:
    """integrity.*: whether the parameters are the same on all ranks, every so many steps and before each checkpoint."""

    every: Positive | None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One run, whole. Field names are the top-level keys of the configuration."""

    name: str
    run: Run
    resume: Literal["auto", "never", "must"]
    train: Train
    checkpoint: Checkpoint
    data: DataSettings
    anomaly: Anomaly
    recovery: Recovery
    watchdog: Watchdog
    straggler: Straggler
    system: System
    integrity: Integrity
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
