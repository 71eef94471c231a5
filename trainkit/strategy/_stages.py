"""From a whole model to the stages of a pipeline, under the model's own parameter names.

A stage is a shallow copy of the model, of which only the path to the cut parts is new: where another stage has a module
there is a stand-in without weights, everything else is shared with the model. So several stages of one rank, and the
view of all of them together that the optimizer and the checkpoints see, hold the same tensors.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from trainkit.errors import ConfigError, Problem, TrainkitError
from trainkit.parts import Parts
from trainkit.protocols import Task
from trainkit.strategy import _cut


@dataclass(frozen=True, kw_only=True)
class Sections:
    """The names of a model's cut modules. Stage s has the blocks [bounds[s], bounds[s + 1]).

    tied  those of `first` whose weights `last` uses too: the last stage has them as well
    """

    blocks: Sequence[str]
    first: Sequence[str]
    last: Sequence[str]
    tied: Sequence[str] = ()
    bounds: Sequence[int] = ()

    @property
    def units(self) -> set[str]:
        return {*self.blocks, *self.first, *self.last}

    def of(self, stages: Iterable[int]) -> set[str]:
        """What the stages with these numbers have."""
        held: set[str] = set()
        for stage in stages:
            held |= {*self.blocks[self.bounds[stage] : self.bounds[stage + 1]]}
            held |= {*self.first} if stage == 0 else set()
            held |= {*self.last, *self.tied} if stage == len(self.bounds) - 2 else set()
        return held


def sections(task: Task, model: nn.Module, stages: int, cut: Sequence[int | str] | None) -> tuple[Sections, Parts]:
    """Cut `model` into as many stages, where `cut` says, by default balanced by parameters. Raises ConfigError that
    says what of the model does not fit."""
    kind, parts = type(model).__name__, task.pipeline(model)
    if parts is None:
        hint = "give the recipe a pipeline(model), or use strategy=fsdp"
        raise _refused(f"the model {kind} does not say how it is cut into stages", hint)
    names = {id(module): name for name, module in model.named_modules()}
    blocks = [names[id(block)] for block in task.blocks(model)]
    found = Sections(blocks=blocks, first=[names[id(m)] for m in parts.first], last=[names[id(m)] for m in parts.last])
    if len(set(blocks)) < stages:
        raise _refused(f"{stages} stages need as many blocks, and the model {kind} has {len(set(blocks))}", "")
    found = replace(found, tied=_tied(kind, model, found))
    return replace(found, bounds=_bounds(model, found, stages, cut)), parts


def _refused(message: str, hint: str) -> ConfigError:
    return ConfigError([Problem("strategy", "pipeline", message, hint)])


def _tied(kind: str, model: nn.Module, found: Sections) -> list[str]:
    """Which of `first` share weights with `last`. Raises ConfigError where other parts do, or weights are in none."""
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        unit = next((u for u in found.units if name.startswith(f"{u}.")), None)
        if unit is None:
            hint = "have the recipe's pipeline(model) name the module that it is in, in `first` or in `last`"
            raise _refused(f"the parameter {name} of the model {kind} is in no stage", hint)
        owners.setdefault(id(parameter), []).append(unit)
    tied: list[str] = []
    for units in owners.values():
        if len(set(units)) == 1:
            continue
        if units[0] not in found.first or not {*units[1:]} <= {*found.first, *found.last}:
            hint = "only the first stage's weights may be used again, by the last one: tied embeddings"
            raise _refused(f"{' and '.join(units)} of the model {kind} share weights", hint)
        tied += [u for u in units if u in found.first] if {*units} & {*found.last} else []
    return list(dict.fromkeys(tied))


def _bounds(model: nn.Module, found: Sections, stages: int, cut: Sequence[int | str] | None) -> list[int]:
    if cut is not None:
        try:
            return _cut.given([c if isinstance(c, int) else found.blocks.index(c) for c in cut], len(found.blocks))
        except ValueError as error:
            hint = f"the {len(found.blocks)} blocks are {found.blocks[0]} to {found.blocks[-1]}"
            raise ConfigError([Problem("strategy.cut", list(cut), str(error), hint)]) from error

    def elements(names: Sequence[str]) -> int:
        parameters = chain.from_iterable(model.get_submodule(name).parameters() for name in names)
        return sum(p.numel() for p in {id(p): p for p in parameters}.values())

    sizes = [elements([name]) for name in found.blocks]
    return _cut.balanced(sizes, stages, elements(found.first), elements([*found.last, *found.tied]))


def all_train(model: nn.Module, found: Sections, ranks: int) -> None:
    """Raises ConfigError where one of `ranks` ranks, which have the stages in turn, would have frozen weights only:
    there is no optimizer of nothing."""
    for rank in range(ranks):
        names = found.of(range(rank, len(found.bounds) - 1, ranks))
        if not any(p.requires_grad for name in names for p in model.get_submodule(name).parameters()):
            message = (
                f"rank {rank} of the pipeline would train nothing: its stages of {type(model).__name__} are frozen"
            )
            raise _refused(message, "set strategy.cut so that every rank has a block that is trained")


# ------------------------------------------------------------------------------------------------ stages


class Absent(nn.Module):
    """Stands in for a module that another stage has. Its plain settings are still there to be asked for."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        kept = {k: v for k, v in vars(module).items() if isinstance(v, (bool, int, float, str))}
        vars(self).update(kept)
        self.zero = isinstance(module, nn.Embedding)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        first = args[0] if args else next(iter(kwargs.values()))
        return torch.zeros((), device=first.device) if self.zero else first


def keeping(model: nn.Module, units: Collection[str], kept: Collection[str], prefix: str = "") -> nn.Module:
    """A shallow copy of `model` that has, of the modules called `units`, those called `kept`."""
    twin = copy.copy(model)
    twin._modules = {}
    for name, child in model._modules.items():
        path = f"{prefix}{name}"
        if child is not None and path in units:
            child = child if path in kept else Absent(child)
        elif child is not None and any(unit.startswith(f"{path}.") for unit in units):
            child = keeping(child, units, kept, f"{path}.")
        twin._modules[name] = child
    return twin


def prove(model: nn.Module, found: Sections, parts: Parts) -> None:
    """Run the example through the stages, one after another, and through the whole model. Raises TrainkitError where
    that is not the same: the model's forward does more around its blocks than the cut knows of."""
    if parts.example is None:
        return
    training, count = model.training, len(found.bounds) - 1
    model.eval()
    try:
        with torch.no_grad():
            expected = tree_leaves(model(**parts.example))
            hidden: Any = None
            for stage in range(count):
                part = keeping(model, found.units, found.of([stage]))
                hidden = parts.forward(part, hidden, parts.example, stage == count - 1)
    finally:
        model.train(training)
    for ours, theirs in zip(tree_leaves(hidden), expected, strict=True):
        if isinstance(theirs, Tensor) and not _near(ours, theirs):
            raise TrainkitError(
                f"the model {type(model).__name__} computes something else when it is cut into stages: "
                "its forward does more around its blocks than the recipe's pipeline(model) says\n"
                "    use strategy=fsdp"
            )


def _near(ours: Tensor, theirs: Tensor) -> bool:
    if ours.shape != theirs.shape:
        return False
    return float((ours - theirs).abs().max()) <= 1e-3 * float(theirs.abs().max())  # rounding stays far below this
