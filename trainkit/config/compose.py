"""Words to one resolved dict. The only module that imports hydra and omegaconf."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainkit.config.bundle import GROUPS, components, describe, folders
from trainkit.config.suggest import suggest
from trainkit.errors import ConfigError, Problem

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override


def compose(words: Sequence[str]) -> dict[str, Any]:
    """The configuration that `key=value` words select, defaults and interpolations resolved, run.dir absolute.

    Raises ConfigError with every word that cannot be read and every choice that does not exist.
    """
    overrides, problems = _parse(words)
    problems += [p for o in overrides if (p := _bad_choice(o))]
    chosen = {o.key_or_group: str(o.value()) for o in overrides if o.key_or_group in GROUPS}
    if "recipe" not in chosen and not any(p.key == "recipe" for p in problems):
        problems.append(no_recipe())
    if problems:
        raise ConfigError(problems)
    # Hydra would stop at the first unknown key. Forced, they all come through, and build() names them together.
    values = [f"++{o.key_or_group}={o.get_value_string()}" for o in overrides if o.key_or_group not in GROUPS]
    if not any(o.key_or_group == "name" for o in overrides):
        values.append(f"++name={chosen['recipe']}")
    config = _hydra([f"{group}={choice}" for group, choice in chosen.items()] + values)
    if isinstance(config.get("run"), dict) and isinstance(config["run"].get("dir"), str):
        config["run"]["dir"] = str(Path(config["run"]["dir"]).expanduser().absolute())
    return config


def no_recipe() -> Problem:
    listed = "\n".join(f"    {name:22}{describe(path)}" for name, path in components("recipe").items())
    return Problem("", "", f"no recipe chosen; choose one with recipe=NAME:\n{listed}")


def _parse(words: Sequence[str]) -> tuple[list[Override], list[Problem]]:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser, overrides, problems = OverridesParser.create(), [], []
    for word in words:
        try:
            override = parser.parse_override(word)
        except HydraException as error:
            problems.append(Problem("", "", f"cannot read {word!r}: {str(error).splitlines()[0]}", "write key=value"))
            continue
        if override.is_delete():
            problems.append(Problem(word, "", "keys cannot be removed", "set the key to null instead"))
        elif override.is_sweep_override():
            problems.append(Problem(word, "", "one run takes one value", "start one run per value"))
        else:
            overrides.append(override)
    return overrides, problems


def _bad_choice(override: Override) -> Problem | None:
    group = override.key_or_group
    if group not in GROUPS:
        return None
    choices = components(group)
    value = override.value()
    if value in choices:
        return None
    return Problem(
        group, value, f"there is no such {group}; there are {', '.join(choices)}", suggest(str(value), choices)
    )


def _hydra(overrides: list[str]) -> dict[str, Any]:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    primary, *others = folders("conf")
    search = [f"hydra.searchpath=[{','.join(f'file://{folder}' for folder in others)}]"] if others else []
    try:
        with initialize_config_dir(str(primary), version_base="1.3", job_name="trainkit"):
            config = OmegaConf.to_container(hydra_compose("config", overrides=search + overrides), resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        cause = error.__cause__ or error
        raise ConfigError([Problem("", "", f"the configuration does not hold together: {cause}")]) from error
    if not isinstance(config, dict):
        raise ConfigError([Problem("", "", "the configuration is not a mapping")])
    return {str(key): value for key, value in config.items()}
