"""The seams of trainkit and the values that cross them. Imports of trainkit only errors and parts.

    Task       what is trained: model, data, loss          (a recipe; written once)
    Strategy   how one model is spread over ranks          -> World, Engine
    Launcher   who starts and watches the ranks            -> Job
    Tracker    where the numbers go besides the run folder
    Optimizer, Schedule                                    small, pure

A component is a frozen dataclass whose fields are the keys of its YAML file. torch is imported for its
types only, so that `--help`, `ls` and `validate` answer without it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

from trainkit.errors import Problem

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from trainkit.parts import ModelShape, Parts

Say = Callable[[str], None]
"""Prints one line of progress where the person at the terminal sees it."""

Precision = Literal["fp32", "bf16"]
Outcome = Literal["done", "stopped"]  # of ranks that did not fail; stopped: asked to, and saved


# ---------------------------------------------------------------------------------------------- data


@dataclass(slots=True)
class Batch:
    """One micro-batch of one rank.

    inputs   keyword arguments of the model's forward
    targets  what the loss compares the output with
    weight   how many elements the loss counts (answer tokens, images); 0 means that nothing counts
    tokens   how many elements the model reads, without padding; for the throughput
    """

    inputs: dict[str, Tensor]
    targets: dict[str, Tensor]
    weight: float
    tokens: int

    def to(self, device: torch.device) -> Batch:
        """This batch on `device`; copies from pinned memory do not wait."""
        return self if device.type == "cpu" else self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """This batch in page-locked memory, for copies to a GPU that do not wait (called by torch's DataLoader)."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        inputs, targets = ({k: change(v) for k, v in tensors.items()} for tensors in (self.inputs, self.targets))
        return Batch(inputs, targets, self.weight, self.tokens)


class Source(Protocol):
    """Samples by number. `fetch` collates: it is called with the ids of one micro-batch."""

    def __len__(self) -> int: ...

    def fetch(self, ids: Sequence[int]) -> Batch:
        """The samples `ids` (each in [0, len)) as one batch on the CPU. Must depend on nothing but ids."""


@dataclass(frozen=True, slots=True)
class Data:
    """What a recipe trains on and what it holds out for evaluation."""

    train: Source
    heldout: Source | None = None


# ---------------------------------------------------------------------------------------------- task


class Task(ABC):
    """What is trained. A recipe is a frozen dataclass that derives from this and fills in three methods.

    free  the keys that may change when a run goes on, because neither model nor data depend on them
    """

    free: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def build_model(self) -> nn.Module:
        """The model, fp32 on the CPU. torch's RNG is seeded with train.seed before the call."""

    @abstractmethod
    def build_data(self) -> Data:
        """The samples. Called on every rank, after `prepare` has run once."""

    @abstractmethod
    def loss(self, output: Any, targets: Mapping[str, Tensor]) -> Tensor:
        """The loss SUMMED over the counted elements of one micro-batch (scalar). trainkit divides by their
        number in the whole global batch, so that accumulation and rank count do not change the gradient."""

    def metrics(self, output: Any, targets: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Sums over the counted elements of one held-out micro-batch; reported as eval_NAME = sum / weight."""
        return {"loss": self.loss(output, targets)}

    def problems(self) -> Sequence[Problem]:
        """What is wrong with the recipe's keys and files. Runs before launch, without torch."""
        return ()

    def prepare(self, say: Say) -> None:  # noqa: B027  # a default, not a forgotten abstract method
        """Slow work done once per machine before build_data() and build_model(): downloads, conversions, tokenising."""

    def example(self, samples: int) -> Batch:
        """A micro-batch of that many samples, of which only the shapes count (simulation); by default of the data."""
        return self.build_data().train.fetch(range(samples))

    def blocks(self, model: nn.Module) -> Sequence[nn.Module]:
        """The repeated layers of `model`: the unit of activation checkpointing and of sharding.
        By default the children of its longest ModuleList or Sequential."""
        from torch import nn

        stacks = [m for m in model.modules() if isinstance(m, (nn.ModuleList, nn.Sequential))]
        return list(max(stacks, key=len)) if stacks else []

    def model_shape(self) -> ModelShape | None:
        """The shape of the model, so that a strategy that divides it can refuse before launch what does not divide.
        Without torch, and with keys that `problems` may refuse; None where it is not known yet."""
        return None

    def tensor_plan(self, model: nn.Module) -> Mapping[str, Any] | None:
        """How a tensor axis divides `model`: {module name, * for a number in it: style}. A style is the name of one
        (docs/mesh.md) or an object of torch's ParallelStyle. By default what a transformers model says of itself;
        None: it cannot be divided."""
        plan: Mapping[str, Any] | None = getattr(model, "tp_plan", None)
        return plan

    def sequence_part(self, batch: Batch, part: int, parts: int) -> Batch:
        """Part `part` of `parts` equal, consecutive parts of the sequences in `batch`, whose inputs say where they are;
        weight and tokens stay the whole's. For a context axis, where model_shape() gives the length of a sequence."""
        raise NotImplementedError(f"{type(self).__name__} does not say how its sequences are divided")

    def pipeline(self, model: nn.Module) -> Parts | None:
        """How `model` is cut into the stages of a pipeline; None: it cannot be."""
        return None

    def sample(self, model: nn.Module) -> str | None:
        """A short text that shows what the model does now (one generation); shown before and after."""
        return None

    def export(self, model: nn.Module, folder: Path) -> None:
        """Write the trained model for use without trainkit. By default model.safetensors in `folder`."""
        from safetensors.torch import save_model

        folder.mkdir(parents=True, exist_ok=True)
        save_model(model, str(folder / "model.safetensors"))


# ------------------------------------------------------------------------------- optimizer, schedule


@runtime_checkable
class Optimizer(Protocol):
    """Builds the torch optimizer from (name, parameter) pairs of the trainable parameters."""

    lr: float

    def build(self, named: Iterable[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer: ...


@runtime_checkable
class Schedule(Protocol):
    """The learning rate's factor per optimizer step: a pure function, so it needs no state."""

    def factor(self, step: int, total: int) -> float:
        """The factor in [0, 1] of step `step` (0-based) out of `total`."""

    def problems(self, total: int | None) -> Sequence[Problem]: ...


# ------------------------------------------------------------------------------------ strategy, engine


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What the launcher will run on, as far as it is known before the start."""

    hosts: int
    ranks: int
    gpus: int
    cores: int
    fewer: tuple[int, ...] = ()  # smaller numbers of ranks to go on with when ranks are lost, ascending


class Ranks(Protocol):
    """The ranks of a run, and how they tell each other something."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def gather(self, value: Any) -> list[Any]:
        """One small picklable object per rank, in rank order, on every rank. Collective."""

    def exchange(self, outgoing: Sequence[tuple[int, Tensor]], incoming: Sequence[tuple[int, Tensor]]) -> None:
        """Send to ranks and fill from ranks, in host memory. They call it too; in the same order between any two."""


class World(Ranks, Protocol):
    """This rank's place. Data-parallel axis: dp_rank of dp_size ranks read different samples."""

    @property
    def device(self) -> torch.device: ...

    @property
    def dp_rank(self) -> int: ...

    @property
    def dp_size(self) -> int: ...

    def total(self, values: Sequence[float]) -> list[float]:
        """Element-wise sum over the data-parallel ranks; host memory, no device sync. Collective."""

    def reduce(self, value: Tensor) -> Tensor:
        """Sum of a device tensor over the data-parallel ranks, in place. Collective."""

    def broadcast(self, value: Tensor, source: int = 0) -> Tensor:
        """The tensor `value` of data-parallel rank `source`, in place; each part of the model by itself. Collective."""

    @property
    def part(self) -> tuple[int, int]:
        """Which part of the model's state this rank has, and of how many. Ranks with the same part are copies."""

    def hand_on(self, value: Tensor, source: int) -> Tensor:
        """The tensor `value` of rank `source`, which has the same part, in place. Collective among the copies."""

    def barrier(self) -> None: ...

    @property
    def lets_go(self) -> bool:
        """Whether a rank can close this when another one is gone, and join other ranks."""

    def apart(self) -> Ranks:
        """The same ranks over connections of their own, for a thread beside the one that uses these. Collective."""

    def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Training:
    """Everything that fixes the meaning of a step, whatever the strategy."""

    task: Task
    optimizer: Optimizer
    seed: int
    clip_norm: float | None
    precision: Precision
    activation_checkpointing: bool
    compile: bool
    ema: float | None


class Engine(Protocol):
    """Owns everything between 'here is my share of a global batch' and 'the optimizer has stepped'."""

    def forward_backward(self, share: Sequence[Batch], weight: float) -> Tensor:
        """Gradients of (loss sum / weight). `share`: this rank's micro-batches, equally many on every rank;
        `weight`: counted elements of the WHOLE global batch. Returns this rank's loss sum (device, detached)."""

    def update(self, lr: float) -> Tensor:
        """Clip by the true global norm, step, zero. Returns that norm before clipping (device, detached), equal to the
        bit on all ranks. Where it is not finite the batch is dropped, as by discard()."""

    def discard(self) -> None:
        """In place of update(): drop the batch. Its gradients go, and running statistics are as they were before it."""

    def compare(self) -> None:
        """Raise CorruptError, on every rank, unless all have the same parameters. Only for strategies under which every
        rank keeps the whole model; the others claim integrity.every=null (preflight.Configured). Collective."""

    def size(self) -> tuple[int, int]:
        """How many parameters the whole model has, and how many of them are trained."""

    def evaluate(self, share: Iterable[Batch]) -> tuple[dict[str, Tensor], float]:
        """This rank's sums of the task's metrics (device) and their weight; with the averaged weights, if any."""

    def sample(self) -> str | None:
        """The task's sample with the weights that evaluate() uses."""

    def state_dict(self) -> dict[str, Any]:
        """Canonical: model.NAME, optimizer.NAME.MOMENT, ema.NAME; full tensors or DTensors."""

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@runtime_checkable
class Strategy(Protocol):
    """How one model is spread over ranks."""

    def ranks(self, cluster: Cluster) -> int:
        """What launcher.ranks=auto means: how many ranks this strategy would use on `cluster`."""

    def problems(self, cluster: Cluster) -> Sequence[Problem]:
        """Pure; runs before launch; `cluster.ranks` is the number asked for."""

    def dp_size(self, ranks: int) -> int:
        """How many of `ranks` ranks read different samples."""

    def connect(self, device: str) -> World: ...

    def build(self, training: Training, world: World) -> Engine: ...


# ------------------------------------------------------------------------------------------- launcher


class Job(Protocol):
    """A started run, seen from the supervisor."""

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""

    def stop(self) -> None:
        """Ask all ranks to save and leave."""

    def kill(self) -> None:
        """End it at once."""


@runtime_checkable
class Launcher(Protocol):
    """Who starts and watches the ranks. `launcher.ranks` is a number, 'auto', or a span such as '2:4'."""

    ranks: int | str

    def cluster(self, strategy: Strategy, device: str) -> Cluster:
        """What there is to run on, 'auto' resolved by the strategy; no GPUs where train.device=cpu. Without torch."""

    def problems(self, cluster: Cluster) -> Sequence[Problem]: ...

    def start(self, run: Path, cluster: Cluster, attempt: int) -> Job:
        """Start the ranks on the run folder `run`, whose config.yaml is resolved."""


# -------------------------------------------------------------------------------------------- tracker


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What a tracker is told about a run. `parent`: the folder of the sweep that it belongs to."""

    folder: Path
    name: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    parent: Path | None = None


class TrackerSession(Protocol):
    """One open run in a tracker. Every method may raise; what was sent before it did may come again."""

    def log(self, rows: Sequence[Mapping[str, Any]]) -> None: ...

    def tell(self, events: Sequence[Mapping[str, Any]]) -> None: ...

    def measure(self, samples: Sequence[Mapping[str, Any]]) -> None:
        """How busy the machines were (system.py); by its number, `sample`, one that comes again is known."""

    def artifact(self, name: str, text: str) -> None: ...

    def close(self, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None: ...

    def abandon(self) -> None:
        """Let go of what it holds here, after a fault: another session is opened in its place."""

    def where(self) -> str:
        """One line: where a person looks at this run, and how."""


@runtime_checkable
class Tracker(Protocol):
    """Where the numbers go besides the run folder."""

    def problems(self) -> Sequence[Problem]: ...

    def open(self, info: RunInfo) -> TrackerSession | None:
        """Create or continue the run of this folder; None where nothing is tracked."""

    def held(self, folder: Path) -> Sequence[int] | None:
        """The step of every row that it holds of the run in `folder`, in any order; None where nothing is tracked."""
