"""A plain dict to Settings: types and ranges by pydantic, unknown keys and targets by name, all problems at once."""

from __future__ import annotations

import dataclasses
import importlib
import json
import traceback
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from trainkit import settings as s
from trainkit.config.bundle import SEVERAL, install_recipes_package
from trainkit.config.suggest import suggest
from trainkit.errors import ConfigError, Problem
from trainkit.protocols import Launcher, Optimizer, Schedule, Strategy, Task, Tracker
from trainkit.tracker._several import several

SECTIONS: dict[str, type] = {
    "run": s.Run,
    "train": s.Train,
    "checkpoint": s.Checkpoint,
    "data": s.DataSettings,
    "anomaly": s.Anomaly,
    "recovery": s.Recovery,
    "watchdog": s.Watchdog,
    "straggler": s.Straggler,
    "system": s.System,
    "integrity": s.Integrity,
}
SEAMS: dict[str, type] = {
    "optimizer": Optimizer,
    "schedule": Schedule,
    "strategy": Strategy,
    "launcher": Launcher,
    "tracker": Tracker,
    "recipe": Task,
}
PLAIN: dict[str, Any] = {"name": str, "resume": typing.Literal["auto", "never", "must"]}


def load(path: Path) -> s.Settings:
    """The settings of a run folder's config.yaml. Raises ConfigError."""
    settings, problems = build(yaml.safe_load(path.read_text()))
    if settings is None or problems:
        raise ConfigError(problems)
    return settings


def build(config: Mapping[str, Any]) -> tuple[s.Settings | None, list[Problem]]:
    """The settings, where they could be built, and everything wrong with `config`."""
    install_recipes_package()
    problems: list[Problem] = []
    types_of: dict[str, Any] = PLAIN | SECTIONS
    for group, seam in SEAMS.items():
        found = _component(group, seam, config.get(group))
        if isinstance(found, Problem):
            problems.append(found)
        else:
            types_of[group] = found
    known = [key for group, kind in types_of.items() for key in dotted(kind, group)]
    values: dict[str, Any] = {}
    for key, node in config.items():
        if key in types_of:
            built = _object(key, types_of[key], node, known, problems)
            values[key] = built
        elif key not in SEAMS:
            for path, value in _leaves(node, key):
                hint = suggest(path, [*types_of, *known])
                problems.append(
                    Problem(path, value, "there is no such key", hint or f"there are {', '.join(types_of)}")
                )
    for key in types_of:
        if key not in config:
            problems.append(Problem(key, None, "this section is missing from the configuration"))
    if any(values.get(key) is None for key in [*PLAIN, *SECTIONS, *SEAMS]):
        return None, problems
    return s.Settings(**values), problems


def _component(group: str, seam: type, node: Any) -> type | Problem:
    """The class of a component; of several, which are below their names, one that has them as fields."""
    if not isinstance(node, Mapping) or "_target_" in node or group not in SEVERAL or not node:
        return resolve(group, seam, node.get("_target_") if isinstance(node, Mapping) else node)
    kinds: dict[str, type] = {}
    for name, one in node.items():
        found = resolve(group, seam, one.get("_target_") if isinstance(one, Mapping) else one)
        if isinstance(found, Problem):
            return dataclasses.replace(found, key=f"{group}.{name}._target_")
        kinds[name] = found
    return several(kinds)


def resolve(group: str, seam: type, target: object) -> type | Problem:
    """The class that `_target_` names. This is the only place that imports what a configuration names, and it
    imports from two packages only."""
    key, text = f"{group}._target_", str(target)
    module, _, name = text.rpartition(".")
    if not module.startswith((f"trainkit.{group}.", "recipes.")):
        allowed = f"trainkit.{group}.MODULE.CLASS or recipes.MODULE.CLASS"
        return Problem(key, target, f"must be {allowed}", f"choose with {group}=NAME; `trainkit ls` lists the names")
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and module.startswith(error.name):
            return Problem(key, target, f"there is no file {module.replace('.', '/')}.py")
        return Problem(
            key, target, f"needs the package {error.name}, which is not installed", f"pip install {error.name}"
        )
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return Problem(
            key, target, f"does not import: {type(error).__name__}: {error}", f"{where.filename}:{where.lineno}"
        )
    if (found := getattr(imported, name, None)) is None:
        return Problem(key, target, f"{module} has no {name}", suggest(name, vars(imported)))
    if not isinstance(found, type) or not dataclasses.is_dataclass(found):
        return Problem(key, target, "is not a dataclass", "a component is a frozen dataclass; its fields are its keys")
    if lacking := _lacking(found, seam):
        return Problem(key, target, f"is not a {seam.__name__}: {lacking}", f"see trainkit.protocols.{seam.__name__}")
    try:
        typing.get_type_hints(found)  # pydantic alone would put off what it cannot resolve
        TypeAdapter(found)
    except (NameError, PydanticUserError) as error:
        hint = "a field's type must be importable at run time and made of numbers, strings, lists and dataclasses"
        return Problem(key, target, f"has a field whose type cannot be read: {str(error).splitlines()[0]}", hint)
    return found


def _lacking(cls: type, seam: type) -> str:
    """What `cls` would need to be a `seam`; empty if nothing."""
    if seam is Task and not issubclass(cls, Task):
        return "it does not derive from it"
    methods = [n for n, v in vars(seam).items() if isinstance(v, types.FunctionType) and not n.startswith("_")]
    abstract: frozenset[str] = getattr(cls, "__abstractmethods__", frozenset())
    missing = [n for n in methods if n in abstract or not callable(getattr(cls, n, None))]
    return f"it lacks {', '.join(f'{name}()' for name in missing)}" if missing else ""


def _object(key: str, kind: Any, node: Any, known: list[str], problems: list[Problem]) -> Any:
    """`node` as a `kind`, or None with its problems noted."""
    if isinstance(node, Mapping):
        node = {k: _plain(v) for k, v in node.items() if k != "_target_"}
        for path, value in _unknown(kind, node, key):
            problems.append(
                _no_such_key(path, value, getattr(kind, "lacks", {}).get(path.removeprefix(f"{key}.")), known)
            )
    infinite = [(path, value) for path, value in _leaves(node, key) if not _finite(value)]
    if infinite:
        problems += [Problem(path, value, "should be finite") for path, value in infinite]
        return None
    try:
        return TypeAdapter(kind).validate_json(json.dumps(node), strict=True)
    except ValidationError as error:
        problems += _explain(key, node, error)
        return None


def _plain(node: Any) -> Any:
    """The keys of one of several components."""
    return {k: v for k, v in node.items() if k != "_target_"} if isinstance(node, Mapping) else node


def _no_such_key(path: str, value: Any, lacking: tuple[str, str] | None, known: list[str]) -> Problem:
    """`lacking`: the component's own reason and hint (preflight.Lacking)."""
    if lacking is None:
        return Problem(path, value, "there is no such key", suggest(path, known) or _allowed(path, known))
    return Problem(path, value, f"there is no such key: {lacking[0]}", lacking[1])


def _unknown(kind: Any, node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    hints = _fields(kind)
    for name, value in node.items():
        path = f"{prefix}.{name}"
        if name not in hints:
            yield from _leaves(value, path)
        elif isinstance(value, Mapping) and (nested := _dataclass_in(hints[name])):
            yield from _unknown(nested, value, path)


def _fields(kind: Any) -> dict[str, Any]:
    """The keys of a dataclass and their types. Not every hint is a key: a ClassVar is none."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _leaves(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping) and node:
        for name, value in node.items():
            yield from _leaves(value, f"{prefix}.{name}")
    else:
        yield prefix, node


def _finite(value: Any) -> bool:
    """Whether JSON has this value, that is, no NaN and no infinity in it."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


def _dataclass_in(hint: Any) -> Any:
    """The dataclass in a field's type: itself, or the one in `X | None`."""
    options = typing.get_args(hint) or (hint,)
    return next((o for o in options if dataclasses.is_dataclass(o)), None)


def _allowed(path: str, known: list[str]) -> str:
    section = path.rsplit(".", 1)[0]
    names = [key.removeprefix(f"{section}.") for key in known if key.startswith(f"{section}.")]
    if names or "." not in section:
        return f"{section} has {', '.join(names) or 'no keys'}"
    return _allowed(section, known)


def _explain(key: str, node: Any, error: ValidationError) -> list[Problem]:
    """pydantic's errors, one problem per key: the branches of a union are alternatives of one message."""
    messages: dict[str, list[str]] = {}
    found: dict[str, Any] = {}
    for item in error.errors(include_url=False):
        path, value = key, node
        for part in item["loc"]:
            if isinstance(value, Mapping) and part in value:
                path, value = f"{path}.{part}", value[str(part)]
            elif isinstance(value, list) and isinstance(part, int) and part < len(value):
                path, value = f"{path}[{part}]", value[part]
            elif item["type"] == "missing":
                path, value = (f"{path}[{part}]" if isinstance(part, int) else f"{path}.{part}"), None
        text = "is missing" if item["type"] == "missing" else _plainly(item["msg"])
        messages.setdefault(path, []).append(text)
        found[path] = value
    joined = {
        path: " or ".join([first, *(t.removeprefix("should be ") for t in rest)])
        for path, (first, *rest) in messages.items()
    }
    return [Problem(path, found[path], text) for path, text in joined.items()]


def _plainly(message: str) -> str:
    """'Input should be a valid integer' -> 'should be an integer': pydantic speaks of JSON, the reader sees YAML."""
    for jargon, plain in (
        ("Input should", "should"),
        ("String should", "should"),
        ("a valid integer", "an integer"),
        ("a valid array", "a list"),
        ("a valid ", "a "),
        ("be an object", "be a section with keys of its own"),
        ("Value error, ", ""),
    ):
        message = message.replace(jargon, plain)
    return message


def dotted(kind: Any, prefix: str) -> Iterator[str]:
    """Every key of a dataclass, dotted, nested ones included; the prefix itself for anything else."""
    if not dataclasses.is_dataclass(kind):
        yield prefix
        return
    for name, hint in _fields(kind).items():
        yield f"{prefix}.{name}"
        if nested := _dataclass_in(hint):
            yield from dotted(nested, f"{prefix}.{name}")
