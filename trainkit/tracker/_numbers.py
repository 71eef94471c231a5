"""The numbers of a row, by the names under which trackers show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def grouped(row: Mapping[str, Any]) -> dict[str, Any]:
    """As TensorBoard and W&B show them, grouped by what stands before a slash. Step and time are told apart."""
    return {_name(key): value for key, value in row.items() if key not in ("step", "time")}


def _name(key: str) -> str:
    return f"eval/{key.removeprefix('eval_')}" if key.startswith("eval_") else f"train/{key}"


def by_machine(sample: Mapping[str, Any]) -> dict[str, float]:
    """How busy the machines were. MLflow shows what begins like this in a place of its own."""
    return {f"system/{host}/{key}": value for host, load in sample["machines"].items() for key, value in load.items()}
