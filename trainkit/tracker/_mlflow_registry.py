"""Registered models: a version per exported model, and aliases that move only where a comparison holds."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainkit.errors import TrainkitError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion

CANDIDATE = "candidate"
MODEL = "trainkit.model_id"  # a tag of a version: SQL stores forget which logged model it is of
COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
RULE = re.compile(rf"\s*([\w.-]+?)\s*({'|'.join(COMPARE)})\s*([\w.+-]+)\s*")


@dataclass(frozen=True, slots=True)
class Rule:
    """eval_loss<=champion, eval_accuracy>0.9: a metric against that of an alias, or against a number."""

    metric: str
    sign: str
    other: str


def read_rule(text: str) -> Rule | None:
    """None where it is none."""
    found = RULE.fullmatch(text)
    return None if found is None else Rule(*found.groups())


def register(client: MlflowClient, name: str, run_id: str, model: LoggedModel) -> None:
    """A version of the registered model `name`, with the alias `candidate`; nothing where there is one of `model`."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    if any(version.tags.get(MODEL) == model.model_id for version in versions_of(client, name, run_id)):
        return
    tags = {MODEL: model.model_id}
    made = client.create_model_version(name, model.artifact_location, run_id, tags, model_id=model.model_id)
    client.set_registered_model_alias(name, CANDIDATE, made.version)


def versions_of(client: MlflowClient, name: str, run_id: str) -> list[ModelVersion]:
    """The versions that a run has registered under `name`, oldest first."""
    found = client.search_model_versions(f"name = '{name}' AND run_id = '{run_id}'")
    return sorted(found, key=lambda version: int(version.version))


def promote(client: MlflowClient, version: ModelVersion, alias: str, rule: Rule | None) -> tuple[bool, str]:
    """Give `version` the alias if the rule holds. Whether it has it now, and what to tell."""
    name, number = version.name, str(version.version)
    aliases = _aliases(client, name)
    before = aliases.get(alias)
    if before == number:
        return True, f"version {number} of {name} is {alias} already"
    told = ""
    if rule is not None:
        holds, told = _judged(client, version, rule, aliases)
        if not holds:
            stays = f"; {alias} stays version {before}" if before else ""
            return False, f"version {number} of {name} does not become {alias}: {told} does not hold{stays}"
    if before is not None:  # remembered first: an alias that has moved could not be moved back
        _remember(client, name, alias, [*_history(client, name, alias), before])
    client.set_registered_model_alias(name, alias, number)
    reason = f": {told}" if told else ""
    return True, f"version {number} of {name} is {alias} now{reason}" + (
        f" (before: version {before})" if before else ""
    )


def back(client: MlflowClient, name: str, alias: str) -> str:
    """Give the alias back to the version that had it before. Raises TrainkitError where there is none."""
    now, history = _aliases(client, name).get(alias), _history(client, name, alias)
    there = {str(version.version) for version in client.search_model_versions(f"name = '{name}'")}
    while history and (history[-1] == now or history[-1] not in there):
        history.pop()
    if not history:
        raise TrainkitError(f"no version of {name} was {alias} before version {now}")
    before = history.pop()
    client.set_registered_model_alias(name, alias, before)
    _remember(client, name, alias, history)
    return f"version {before} of {name} is {alias} again (before: version {now})"


def _judged(client: MlflowClient, version: ModelVersion, rule: Rule, aliases: dict[str, str]) -> tuple[bool, str]:
    value = _value(client, version, rule.metric)
    if (number := _number(rule.other)) is not None:
        return COMPARE[rule.sign](value, number), f"{rule.metric} {value:.6g} {rule.sign} {number:.6g}"
    if rule.other not in aliases:
        return True, f"no version is {rule.other} yet"
    other = client.get_model_version(version.name, aliases[rule.other])
    against = _value(client, other, rule.metric)
    told = f"{rule.metric} {value:.6g} {rule.sign} {against:.6g} of {rule.other} (version {other.version})"
    return COMPARE[rule.sign](value, against), told


def _value(client: MlflowClient, version: ModelVersion, metric: str) -> float:
    """What the model had of the metric; the run's last value would be another one once the run goes on."""
    known = version.tags.get(MODEL)
    model = client.get_logged_model(known) if known else None
    values = {found.key: float(found.value) for found in (model.metrics or [] if model else [])}
    if metric not in values:
        there = ", ".join(sorted(values)) or "none"
        raise TrainkitError(f"version {version.version} of {version.name} has no {metric}; its metrics: {there}")
    return values[metric]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _aliases(client: MlflowClient, name: str) -> dict[str, str]:
    return {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}


def _history(client: MlflowClient, name: str, alias: str) -> list[str]:
    """Versions that had the alias before, oldest first."""
    return [v for v in client.get_registered_model(name).tags.get(_tag(alias), "").split(",") if v]


def _remember(client: MlflowClient, name: str, alias: str, versions: list[str]) -> None:
    client.set_registered_model_tag(name, _tag(alias), ",".join(versions))


def _tag(alias: str) -> str:
    return f"trainkit.before.{alias}"
