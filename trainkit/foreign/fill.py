"""From a foreign checkpoint into the canonical state of a recipe's model: every name accounted for, or refused."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from trainkit.canonical import first_names
from trainkit.errors import ConfigError, Problem
from trainkit.foreign.source import Foreign, Read

if TYPE_CHECKING:
    from torch import Tensor, nn

WRAPPERS = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before a name."""


def fill(model: nn.Module, state: Mapping[str, Any], source: Foreign) -> None:
    """Copy `source` into the live tensors of `state`, the canonical state of `model`.

    Weights must be there for every name of `state`, and none besides but those of frozen parameters, which must be the
    recipe's own. Moments that the source lacks stay as they are. Raises ConfigError with all that does not fit.
    """
    firsts = first_names(model)
    names = {name: found for name in source.weights if (found := _known(name, firsts)) is not None}
    _account(names, source.weights, state["model"], firsts)
    whole: Mapping[str, Tensor] = model.state_dict()
    wrong = list(_copy_weights(names, firsts, whole, state["model"], source.weights))
    wrong += _copy_moments(firsts, state["optimizer"], source.moments)
    if wrong:
        raise ConfigError([Problem("", "", f"{len(wrong)} of its tensors do not fit the model:\n    {_listed(wrong)}")])
    for name, average in state.get("ema", {}).items():
        average.copy_(state["model"][name])


def _known(name: str, firsts: Mapping[str, str]) -> str | None:
    """The model's name for `name`; None if it has none."""
    bare = name
    for wrapper in WRAPPERS:
        bare = bare.removeprefix(wrapper).replace(f".{wrapper}", ".")
    return next((candidate for candidate in (name, bare) if candidate in firsts), None)


def _account(
    names: Mapping[str, str], theirs: Iterable[str], ours: Mapping[str, Any], firsts: Mapping[str, str]
) -> None:
    """Raise one ConfigError that lists what is missing and what is not known, each with the nearest name."""
    there = {firsts[name] for name in names.values()}
    missing = [name for name in ours if name not in there]
    unknown = [name for name in theirs if name not in names]
    if not missing and not unknown:
        return
    told = [f"missing: {name}{_near(name, unknown)}" for name in missing]
    told += [f"not of the model: {name}{_near(name, missing)}" for name in unknown]
    message = f"its names are not those of the recipe's model, {len(ours)} tensors:\n    {_listed(told)}"
    raise ConfigError([Problem("", "", message)])


def _copy_weights(
    names: Mapping[str, str],
    firsts: Mapping[str, str],
    whole: Mapping[str, Tensor],
    trained: Mapping[str, Tensor],
    weights: Mapping[str, Read],
) -> Iterator[str]:
    """What is wrong with single tensors. A tied parameter has one value, whichever of its names it comes under."""
    done: dict[str, str] = {}
    for theirs, name in names.items():
        value, first = weights[theirs](), firsts[name]
        ours = trained.get(first, whole[first])
        if (difference := _other_kind(value, ours)) is not None:
            yield f"{theirs}: {difference}"
        elif first in done:
            if not value.to(ours.dtype).equal(ours):
                yield f"{theirs} and {done[first]} are one parameter in the model, and differ here"
        elif first in trained:
            ours.copy_(value)
            done[first] = theirs
        elif not value.to(ours.dtype).equal(ours):
            yield f"{theirs} is frozen in the recipe, which makes another value; a checkpoint holds what is trained"


def _copy_moments(
    firsts: Mapping[str, str],
    ours: Mapping[str, Mapping[str, Tensor]],
    theirs: Mapping[str, Mapping[str, Read]],
) -> Iterator[str]:
    for name, state in theirs.items():
        first = firsts.get(_known(name, firsts) or "", "")
        if first not in ours:
            yield f"moments of {name}, which the recipe does not train"
        elif set(state) != set(ours[first]):
            kept, wanted = ", ".join(sorted(state)), ", ".join(sorted(ours[first]))
            yield f"its optimizer keeps {kept} of {name}, the recipe's {wanted} (--weights-only leaves them out)"
        else:
            for key, read in state.items():
                value = read()
                if (difference := _other_kind(value, ours[first][key])) is not None:
                    yield f"{key} of {name}: {difference}"
                else:
                    ours[first][key].copy_(value)


def _other_kind(theirs: Tensor, ours: Tensor) -> str | None:
    """How they differ in shape, or in being numbers with a fraction; those are converted to the model's own type."""
    if theirs.shape == ours.shape and theirs.is_floating_point() == ours.is_floating_point():
        return None
    kinds = (f"{str(t.dtype).removeprefix('torch.')} {list(t.shape)}" for t in (theirs, ours))
    return "{} there, {} in the model".format(*kinds)


def _near(name: str, others: Iterable[str]) -> str:
    found = difflib.get_close_matches(name, list(others), 1, 0.6)
    return f" (nearest: {found[0]})" if found else ""


def _listed(lines: list[str], most: int = 20) -> str:
    more = [f"and {len(lines) - most} more"] if len(lines) > most else []
    return "\n    ".join(lines[:most] + more)
