"""The numbers of a row, by the names under which TensorBoard and W&B show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def grouped(row: Mapping[str, Any]) -> dict[str, Any]:
    """Both group by what stands before a slash. Step and time are told apart from them."""
    return {_name(key): value for key, value in row.items() if key not in ("step", "time")}


def _name(key: str) -> str:
    return f"eval/{key.removeprefix('eval_')}" if key.startswith("eval_") else f"train/{key}"
