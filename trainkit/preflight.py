"""What a strategy may have to say before the start, besides its own `problems()`: seams that trainkit.config asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from trainkit.errors import Problem
from trainkit.parts import ModelShape
from trainkit.protocols import Cluster


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


class Lacking(Protocol):
    """A component that says of keys which others of its group have why it has none: {key: (reason, what to do)}."""

    lacks: ClassVar[Mapping[str, tuple[str, str]]]
