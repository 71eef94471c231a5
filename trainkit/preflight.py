"""What a strategy, a launcher or a recipe may have to say before the start, besides its own `problems()`: seams for
it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from trainkit.errors import Problem
from trainkit.parts import ModelShape
from trainkit.protocols import Cluster, Task


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a strategy, or a file of a framework's own, says of one of trainkit's keys: `key` is to be one of `values`,
    which for a component are names. `said` quotes the file or gives the reason; `otherwise`: what else could be done.
    """

    key: str
    values: tuple[object, ...]
    said: str
    otherwise: str = "change the file"


@runtime_checkable
class Configured(Protocol):
    """A strategy that does not go with every setting. What the recipe contradicts is refused before the start."""

    def claims(self, cluster: Cluster) -> Sequence[Claim]: ...


@runtime_checkable
class Divides(Protocol):
    """A strategy that divides layers or stacks of layers, so that not every model fits it."""

    def model_problems(self, shape: ModelShape, ranks: int) -> Sequence[Problem]:
        """Pure; runs before launch where the shape is known by then, else before the model is divided."""
        ...


@runtime_checkable
class Layered(Protocol):
    """A recipe whose model repeats layers that are all alike, model_shape().layers of them: a plan looks at a shallow
    one and reckons the rest."""

    def with_layers(self, layers: int) -> Task:
        """The same with so many of them."""
        ...


@runtime_checkable
class HandsOver(Protocol):
    """A launcher that may give the run to a scheduler, so that the command ends before the run begins."""

    def hand_over(self, config: Mapping[str, Any], words: Sequence[str], cluster: Cluster) -> Sequence[str] | None:
        """What to tell, once it is given over; None: it is to be run by this command. Raises ConfigError."""


@runtime_checkable
class Sweeps(Protocol):
    """A launcher that may start several runs from one command."""

    def members(self, root: Path) -> Mapping[int, Sequence[str]]:
        """The words that each of them adds, by its number, which is also the name of its folder in `root`; those that
        are done are left out. Empty where it is one run."""


class Lacking(Protocol):
    """A component that says of keys which others of its group have why it has none: {key: (reason, what to do)}."""

    lacks: ClassVar[Mapping[str, tuple[str, str]]]
