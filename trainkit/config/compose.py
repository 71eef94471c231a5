"""Words to one resolved dict. The only module that imports hydra and omegaconf."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainkit.config.bundle import GROUPS, SEVERAL, bundle, components, describe, folders
from trainkit.config.space import Space
from trainkit.config.suggest import ELSEWHERE, suggest
from trainkit.errors import ConfigError, Problem

if TYPE_CHECKING:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig


def compose(words: Sequence[str]) -> dict[str, Any]:
    """The configuration that `key=value` words select, defaults and interpolations resolved, run.dir absolute.

    Raises ConfigError with every word that cannot be read and every choice that does not exist.
    """
    config, problems = draft(words)
    if problems:
        raise ConfigError(problems)
    return config


def draft(words: Sequence[str]) -> tuple[dict[str, Any], list[Problem]]:
    """The configuration as far as `words` can be used, and what is wrong with the others. A group whose choice does
    not exist is left as it is by default, and the keys that were meant for it are left out.

    Raises ConfigError where nothing can be composed.
    """
    overrides, problems = _parse(words)
    problems += [p for o in overrides if (p := _bad_choice(o))]
    refused = {problem.key for problem in problems}
    used = [o for o in overrides if o.key_or_group.split(".")[0] not in refused]
    chosen = {o.key_or_group: _chosen(o) for o in used if o.key_or_group in GROUPS}
    if "recipe" not in {*chosen, *refused}:
        raise ConfigError([*problems, no_recipe()])
    # Hydra would stop at the first unknown key. Forced, they all come through, and build() names them together.
    values = [f"++{o.key_or_group}={o.get_value_string()}" for o in used if o.key_or_group not in GROUPS]
    try:
        config = _hydra([word for group, names in chosen.items() for word in _choosing(group, names)] + values)
        if config.get("name") is None:
            config["name"] = chosen.get("recipe", "")
        return _resolved(config), problems
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from error


def spaces(words: Sequence[str]) -> tuple[list[str], list[Space]]:
    """The words that all members of a sweep share, and what is tried for the other keys, in Hydra's words for it:
    1,2  range(1,3)  choice(a,b)  glob(*)  interval(0,1)  tag(log, interval(1e-5,1e-3))  int(interval(1,8)).

    Raises ConfigError. A word that cannot be read is left to `draft`, which says so.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser, shared, found, problems = OverridesParser.create(), [], [], []
    for word in words:
        try:
            override = parser.parse_override(word)
        except HydraException:
            shared.append(word)
            continue
        if not override.is_sweep_override():
            shared.append(word)
        elif override.key_or_group.split(".")[0] in ("launcher", "tracker", "run", "hydra"):
            said = "is the same for all members of a sweep"
            problems.append(Problem(override.key_or_group, override.get_value_string(), said, "give it one value"))
        else:
            space = _space(override)
            problems += _unusable(space, override.get_value_string())
            found.append(space)
    given = [word.partition("=")[0].lstrip("+") for word in shared] + [space.key for space in found]
    twice = dict.fromkeys(space.key for space in found if given.count(space.key) > 1)
    problems += [Problem("", "", f"{key} is given twice", "give it once") for key in twice]
    if problems:
        raise ConfigError(problems)
    return shared, found


def _space(override: Override) -> Space:
    from hydra.core.override_parser.types import Glob, IntervalSweep, RangeSweep

    key, value = override.key_or_group, override._value
    if isinstance(value, IntervalSweep):
        whole = "int" in value.tags or (isinstance(value.start, int) and isinstance(value.end, int))
        low, high = float(value.start or 0), float(value.end or 0)
        return Space(key=key, low=low, high=high, log="log" in value.tags, whole=whole)
    if isinstance(value, Glob):
        return Space(key=key, values=tuple(value.filter([*components(key)] if key in GROUPS else [])))
    values = tuple(dict.fromkeys(override.sweep_string_iterator()))
    return Space(key=key, values=values, step=float(value.step) if isinstance(value, RangeSweep) else 0.0)


def _unusable(space: Space, typed: str) -> Iterator[Problem]:
    if not space.values and space.low >= space.high:
        yield Problem(space.key, typed, "there is nothing in it", "write interval(FROM,TO), range(FROM,TO) or A,B,C")
    elif space.log and space.low <= 0:
        yield Problem(space.key, typed, "a logarithm needs numbers above 0", "begin above 0")


def no_recipe() -> Problem:
    listed = "\n".join(f"    {name:22}{describe(path)}" for name, path in components("recipe").items())
    return Problem("", "", f"no recipe chosen; choose one with recipe=NAME:\n{listed}")


def _parse(words: Sequence[str]) -> tuple[list[Override], list[Problem]]:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser, overrides, problems = OverridesParser.create(), [], []
    for word in words:
        try:
            override = _read(parser, word)
        except HydraException as error:
            why = str(error).splitlines()[0] if "=" in word else "there is no = in it"
            problems.append(_unreadable(word, why, "write key=value"))
            continue
        if not override.key_or_group:
            problems.append(_unreadable(word, "there is no key before the ="))
        elif override.is_delete():
            problems.append(_unreadable(word, "a key cannot be removed", "set it to null instead"))
        elif override.package is not None:
            problems.append(_unreadable(word, "groups cannot be moved to other keys", "write group=NAME"))
        elif override.key_or_group.split(".")[0] == "hydra":
            problems.append(_unreadable(word, "hydra only composes here; its own keys have no effect"))
        elif override.key_or_group == "cluster":
            told = "cluster is a word of `trainkit plan`; a run takes the machine that its launcher finds"
            problems.append(_unreadable(word, told, "leave it out"))
        else:
            overrides.append(override)
    return overrides, problems


def _read(parser: OverridesParser, word: str) -> Override:
    """One word. What hydra would sweep over or cannot read is text here. Raises HydraException."""
    from hydra.errors import HydraException

    try:
        override = parser.parse_override(word)
        if not override.is_sweep_override():
            return override
    except HydraException:
        pass  # the second reading below raises if it fares no better
    return parser.parse_override(_as_text(word))


def _as_text(word: str) -> str:
    """The word with its value quoted, so that ~/runs, a=b and `Hello, you!` need no quotes within quotes in a shell.
    What begins as a list, a mapping or a quotation is left alone: there, something is missing."""
    key, equals, value = word.partition("=")
    if not value or value[0] in "[{'\"":
        return word
    escaped = value.replace('"', '\\"')
    return f'{key}{equals}"{escaped}"'


def _unreadable(word: str, why: str, hint: str = "") -> Problem:
    return Problem("", "", f"cannot use {word!r}: {why}", hint)


def _chosen(override: Override) -> str | list[str]:
    value = override.value()
    return [str(name) for name in value] if isinstance(value, list) else str(value)


def _choosing(group: str, names: str | list[str]) -> list[str]:
    """Hydra's words for a choice. Of several, each gets its keys below its own name."""
    if isinstance(names, str):
        return [f"{group}={names}"]
    return [f"~{group}", *(f"+{group}@{group}.{name}={name}" for name in names)]


def _bad_choice(override: Override) -> Problem | None:
    group = override.key_or_group
    if group not in GROUPS:
        return None
    choices = components(group)
    value = override.value()
    if isinstance(value, list) and value and group in SEVERAL:
        wrong = [name for name in value if name not in choices]
        if not wrong and len({*value}) == len(value):
            return None
        value = wrong[0] if wrong else override.get_value_string()
    if isinstance(value, str) and value in choices:
        return None
    hint = ELSEWHERE.get((group, str(value))) or suggest(str(value), choices)
    if (Path.cwd() / "recipes" / f"{value}.py").exists() and group == "recipe":
        hint = f"recipes/{value}.py is selected by conf/recipe/{value}.yaml, which is not there"
    return Problem(group, value, f"there is no such {group}; there are {', '.join(choices)}", hint)


def _hydra(overrides: list[str]) -> DictConfig:
    """Hydra's composition, interpolations not yet resolved. Raises ConfigError."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    _search_own_folder_first()
    try:
        with initialize_config_dir(str(bundle("conf")), version_base="1.3", job_name="trainkit"):
            return hydra_compose("config", overrides=overrides)
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        # Hydra's message says which of its files or words; its cause, where there is one, says why.
        why = f"{error}\n{error.__cause__ or ''}".strip().replace("++", "").replace("\n", "\n    ")
        raise ConfigError([Problem("", "", f"the configuration does not hold together: {why}")]) from error


@functools.cache
def _search_own_folder_first() -> None:
    """conf/ of the working directory comes before the shipped one. Hydra's own searchpath key can only append."""
    from hydra.core.config_search_path import ConfigSearchPath
    from hydra.core.plugins import Plugins
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    class OwnFolder(SearchPathPlugin):
        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            for folder in folders("conf")[:-1]:
                search_path.prepend("own", f"file://{folder}", anchor="main")

    Plugins.instance().register(OwnFolder)


def _resolved(config: DictConfig) -> dict[str, Any]:
    """`config` as a plain dict. Raises ConfigError with every reference that leads nowhere."""
    from omegaconf import OmegaConf

    problems = list(_dangling(config, OmegaConf.to_container(config), ""))
    if problems:
        raise ConfigError(problems)
    plain: Any = OmegaConf.to_container(config, resolve=True)
    if isinstance(plain.get("run"), dict) and isinstance(plain["run"].get("dir"), str):
        plain["run"]["dir"] = str(Path(plain["run"]["dir"]).expanduser().absolute())
    return {str(key): value for key, value in plain.items()}


def _dangling(node: Any, written: Any, prefix: str) -> Iterator[Problem]:
    """The keys of `node` that cannot be resolved; `written` is the same tree as it stands in the files."""
    from omegaconf.errors import OmegaConfBaseException

    for key, value in written.items() if isinstance(written, dict) else enumerate(written):
        try:
            child = node[key]
        except OmegaConfBaseException as error:
            yield Problem(f"{prefix}{key}", value, str(error).splitlines()[0])
        else:
            if isinstance(value, dict | list):
                yield from _dangling(child, value, f"{prefix}{key}.")
