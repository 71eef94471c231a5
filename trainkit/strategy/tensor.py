"""Tensor parallel: the matrices of every layer are divided over the ranks, by the model's own plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt

from trainkit.strategy._axes import Axes
from trainkit.strategy._meshed import NO_OFFLOAD, Meshed, Sharding, Splitting


@dataclass(frozen=True, kw_only=True)
class Tensor(Meshed):
    """See conf/strategy/tensor.yaml for the keys. All ranks train the same samples."""

    lacks: ClassVar[Mapping[str, tuple[str, str]]] = NO_OFFLOAD
    size: Annotated[int, Gt(0)] | None
    sequence_parallel: bool
    loss_parallel: bool
    timeout_s: Annotated[float, Gt(0)]

    def axes(self, ranks: int) -> Axes:
        return Axes(tensor=self.size or ranks)

    def sharding(self) -> Sharding:
        return Sharding()

    def splitting(self) -> Splitting:
        return Splitting(sequence_parallel=self.sequence_parallel, loss_parallel=self.loss_parallel)
