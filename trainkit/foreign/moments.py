"""The state of a torch optimizer by parameter names.

torch numbers the parameters in the order in which the optimizer was given them, group by group, and need not say
which is which. An order is taken if the shapes of all moments agree with it, otherwise the moments are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trainkit.errors import ConfigError, Problem
from trainkit.foreign.source import Read, Trained, stored

if TYPE_CHECKING:
    from torch import Tensor

HINT = "give the optimizer named_parameters(), so that its state holds the names; or import with --weights-only"


def by_name(optimizer: Mapping[str, Any], trained: Trained) -> dict[str, dict[str, Read]]:
    """{name: {moment: ...}} of an optimizer's state_dict(). Raises ConfigError if it cannot be told whose they are."""
    groups: Sequence[Mapping[str, Any]] = optimizer["param_groups"]
    numbers = [number for group in groups for number in group["params"]]
    states: Mapping[Any, Mapping[str, Any]] = optimizer["state"]
    fitting = [names for names in _orders(groups, trained) if _fits(names, numbers, states, trained)]
    if not fitting:
        found = f"the optimizer's moments ({len(numbers)} parameters in {len(groups)} group(s)) cannot be told apart"
        message = f"{found}: the model trains {len(trained)}, and their shapes do not follow in a known order"
        raise ConfigError([Problem("", "", message, HINT)])
    named = zip(fitting[0], numbers, strict=True)
    return {name: {k: stored(_tensor(v)) for k, v in states[n].items()} for name, n in named if n in states}


def steps(moments: Mapping[str, Mapping[str, Read]]) -> int | None:
    """The steps that the optimizer counted; None if it did not."""
    counted = [int(state["step"]()) for state in moments.values() if "step" in state]
    return max(counted, default=None)


def _orders(groups: Sequence[Mapping[str, Any]], trained: Trained) -> list[list[str]]:
    """In which order the parameters may have been given: by the names in the groups; or as the model has them, in one
    group, or with matrices (which are decayed) and the others in two."""
    if all("param_names" in group for group in groups):
        return [[name for group in groups for name in group["param_names"]]]
    if all(
        isinstance(key, str) for group in groups for key in group["params"]
    ):  # FSDP writes names in place of numbers
        return [[name for group in groups for name in group["params"]]]
    if len(groups) == 1:
        return [list(trained)]
    matrices = [name for name, shape in trained.items() if len(shape) >= 2]
    others = [name for name, shape in trained.items() if len(shape) < 2]
    sizes = [len(group["params"]) for group in groups]
    return [[*a, *b] for a, b in ((matrices, others), (others, matrices)) if sizes == [len(a), len(b)]]


def _fits(names: Sequence[str], numbers: Sequence[Any], states: Mapping[Any, Any], trained: Trained) -> bool:
    if len(names) != len(numbers):
        return False
    sizes = [
        (trained.get(name), _tensor(value).shape)
        for name, number in zip(names, numbers, strict=True)
        for value in states.get(number, {}).values()
    ]
    return all(wanted is None or not found or found == wanted for wanted, found in sizes)


def _tensor(value: Any) -> Tensor:
    import torch

    return value if isinstance(value, torch.Tensor) else torch.tensor(float(value))
