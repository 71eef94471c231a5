"""conf/ mirrors the code: adding a component is one module and one YAML file of the same name."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml

from trainkit.config.bundle import GROUPS, describe
from trainkit.settings import Settings

ROOT = Path(__file__).parents[2]
COMPONENTS = sorted(
    path.relative_to(ROOT / "conf") for group in GROUPS for path in (ROOT / "conf" / group).glob("*.yaml")
)


def home(group: str) -> Path:
    return ROOT / ("recipes" if group == "recipe" else f"trainkit/{group}")


def read(path: Path) -> dict[str, Any]:
    """The component's own keys: a recipe sets those of other sections too."""
    content: dict[str, Any] = yaml.safe_load((ROOT / "conf" / path).read_text())
    return content["recipe"] if path.parent.name == "recipe" else content


def target(path: Path) -> Any:
    module, _, name = read(path)["_target_"].rpartition(".")
    return getattr(importlib.import_module(module), name)


def fields(kind: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


@pytest.mark.parametrize("path", COMPONENTS, ids=str)
def test_the_target_is_in_the_module_of_the_same_name(path: Path) -> None:
    group, name = path.parent.name, path.stem
    package = "recipes" if group == "recipe" else f"trainkit.{group}"
    assert read(path)["_target_"].rpartition(".")[0] == f"{package}.{name}"
    assert target(path).__module__ == f"{package}.{name}"


@pytest.mark.parametrize("path", COMPONENTS, ids=str)
def test_the_keys_are_the_fields_in_their_order(path: Path) -> None:
    assert [key for key in read(path) if key != "_target_"] == fields(target(path))


@pytest.mark.parametrize("path", COMPONENTS, ids=str)
def test_nested_keys_are_the_fields_too(path: Path) -> None:
    hints = get_type_hints(target(path))
    for key, value in read(path).items():
        if isinstance(value, dict) and value:  # an empty one takes any keys, such as another program's options
            (kind,) = [k for k in [hints[key], *getattr(hints[key], "__args__", ())] if dataclasses.is_dataclass(k)]
            assert list(value) == fields(kind)


@pytest.mark.parametrize("path", COMPONENTS, ids=str)
def test_a_component_is_frozen_and_takes_its_keys_by_name_only(path: Path) -> None:
    kind = target(path)
    assert kind.__dataclass_params__.frozen
    assert [field.name for field in dataclasses.fields(kind) if not field.kw_only] == []


@pytest.mark.parametrize("path", COMPONENTS, ids=str)
def test_a_component_is_described_in_its_first_comment(path: Path) -> None:
    assert 10 < len(describe(ROOT / "conf" / path)) < 100


@pytest.mark.parametrize("group", GROUPS)
def test_every_module_has_its_yaml(group: str) -> None:
    modules = {path.stem for path in home(group).glob("*.py") if not path.name.startswith("_")}
    backends = {path.stem for path in COMPONENTS if path.parent.name == group}
    assert modules - backends <= {"follower"}  # forwards to whichever tracker is chosen
    assert backends <= modules


def test_the_sections_of_the_configuration_are_the_fields_of_the_settings() -> None:
    config = yaml.safe_load((ROOT / "conf/config.yaml").read_text())
    chosen = [next(iter(line)) for line in config.pop("defaults") if line != "_self_"]
    assert sorted(chosen) == sorted(GROUPS)
    assert [*config, *chosen] == fields(Settings)
    hints = get_type_hints(Settings)
    for section, keys in config.items():
        if isinstance(keys, dict):
            assert list(keys) == fields(hints[section])
