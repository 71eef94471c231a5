"""The arithmetic of a mesh of ranks: how many there are along each axis, and whether a number of ranks fits.

    pipeline   stages of the model, one after the other
    replicas   whole copies of the sharded model; their gradients are summed
    shard      weights, gradients and moments are divided (FSDP)
    context    every sequence is divided; weights, too, as by `shard`
    tensor     every layer's matrices are divided

Ranks are numbered with the last axis fastest: the tensor axis, which talks most, joins neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from math import gcd, prod
from typing import Literal

from trainkit.errors import Problem
from trainkit.parts import ModelShape


@dataclass(frozen=True, kw_only=True)
class Axes:
    """The sizes of the axes. `shard` is 'auto' until `fill` makes it what the other axes leave of the ranks."""

    pipeline: int = 1
    replicas: int = 1
    shard: int | Literal["auto"] = 1
    context: int = 1
    tensor: int = 1

    def sizes(self) -> dict[str, int]:
        """Axis by axis, in the order of the ranks; 'auto' counts as 1."""
        shard = 1 if self.shard == "auto" else self.shard
        rest = {"context": self.context, "tensor": self.tensor}
        return {"pipeline": self.pipeline, "replicas": self.replicas, "shard": shard, **rest}

    @property
    def unit(self) -> int:
        """The number of ranks, or where `shard` is auto what that number must be a multiple of."""
        return prod(self.sizes().values())

    @property
    def data(self) -> int:
        """How many ranks read different samples."""
        sizes = self.sizes()
        return sizes["replicas"] * sizes["shard"]

    def fits(self, ranks: int) -> bool:
        return ranks > 0 and (ranks % self.unit == 0 if self.shard == "auto" else ranks == self.unit)

    def fill(self, ranks: int) -> Axes:
        """These axes with the size of `shard` for `ranks` ranks. Raises ValueError where they do not fit."""
        if not self.fits(ranks):
            raise ValueError(f"{ranks} ranks do not fit the mesh {self}")
        return replace(self, shard=ranks // self.unit) if self.shard == "auto" else self

    def nearest(self, ranks: int) -> int:
        """The largest number of ranks up to `ranks` that fits; the smallest that fits at all where there is none."""
        return max(1, ranks // self.unit) * self.unit if self.shard == "auto" else self.unit

    def problems(self, ranks: int) -> Sequence[Problem]:
        """The misfit of `ranks`, if there is one."""
        if self.fits(ranks):
            return ()
        lower = self.nearest(ranks)
        if self.shard == "auto":
            message = f"does not fit the mesh {self}: it must be a multiple of {self.unit}"
            near = f"{lower} or {lower + self.unit}" if lower < ranks else f"{lower}"
        else:
            message, near = f"does not fit the mesh {self}: it has {self.unit} ranks", f"{self.unit}"
        return [Problem("launcher.ranks", ranks, message, f"set launcher.ranks={near}, or change the axes of strategy")]

    def sequence_problems(self, sequence: int | None) -> Iterator[Problem]:
        """Why sequences of so many elements, None where that is not known, do not divide over the context axis."""
        if self.context == 1:
            return
        if sequence is None:
            message = "the recipe does not say how its sequences are divided"
            hint = "set it to 1; for long sequences there are strategy.tensor with sequence_parallel, too"
            yield Problem("strategy.context", self.context, message, hint)
        elif sequence % self.context or sequence == self.context:
            fitting = ", ".join(str(n) for n in range(1, min(sequence, 65)) if not sequence % n)
            message = f"does not divide sequences of {sequence} into parts of two or more"
            yield Problem("strategy.context", self.context, message, f"sizes that fit: {fitting}")

    def model_problems(self, shape: ModelShape) -> Sequence[Problem]:
        """What of a model of that shape does not divide: each tensor rank has whole heads, each context rank as much of
        a sequence as the others."""
        problems = [*self.sequence_problems(shape.sequence_length)]
        if heads := [n for n in dict.fromkeys(shape.heads) if n % self.tensor]:
            counts = " and ".join(str(n) for n in heads)
            fitting = [n for n in range(1, gcd(*shape.heads) + 1) if not gcd(*shape.heads) % n]
            message = f"a tensor axis of {self.tensor} does not divide the model's {counts} attention heads"
            problems.append(
                Problem("strategy", f"tensor {self.tensor}", message, f"sizes that fit: {', '.join(map(str, fitting))}")
            )
        return problems

    def __str__(self) -> str:
        named = ((field.name, vars(self)[field.name]) for field in fields(self))
        return " x ".join(f"{name} {size}" for name, size in named if size != 1) or "of one rank"
