"""promote RUN|MODEL --to ALIAS [--if RULE | --back] [tracker.uri=URI]: move an alias of a registered model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainkit.cli.terminal import say
from trainkit.cli.words import split
from trainkit.config import load
from trainkit.errors import EXIT_DONE, EXIT_FAILED, ConfigError, Problem, TrainkitError
from trainkit.runfolder import RunFolder
from trainkit.tracker._mlflow_registry import CANDIDATE, Rule, back, promote, read_rule, versions_of
from trainkit.tracker._mlflow_run import noted
from trainkit.tracker._several import parts
from trainkit.tracker.follower import reason
from trainkit.tracker.mlflow import Mlflow, connect

DETAILS = {
    "what is promoted": {
        "RUN": "a run folder: the model that it has registered last (tracker.registry=NAME)",
        "MODEL": "NAME, NAME@ALIAS or NAME/VERSION; NAME alone is NAME@candidate",
    },
    "options": {
        "--to ALIAS": "which alias it gets",
        "--if RULE": "only if a metric compares well: 'eval_loss<=champion', 'eval_accuracy>0.9'; else exit code 1",
        "--back": "instead: give the alias back to the version that had it before",
        "tracker.uri=URI": "where MLflow is, if not where the run or MLFLOW_TRACKING_URI says",
    },
}
USAGE = "promote RUN|MODEL --to ALIAS [--if RULE | --back] [tracker.uri=URI]"
MODEL = re.compile(r"([^/:@]+)(?:@([\w.-]+)|/(\d+))?")
URI = "tracker.uri="


def main(words: Sequence[str]) -> int:
    what, given = _read(words)
    folder = RunFolder(Path(what).expanduser().absolute())
    tracker = _tracker(folder) if folder.config.is_file() else Mlflow(uri=None, experiment="")
    uri = given.get(URI) or tracker.resolved_uri()
    rule = _rule(given["--if"]) if "--if" in given else None
    try:
        return _moved(connect(uri), what, folder, tracker, given, rule)
    except TrainkitError:
        raise
    except Exception as error:  # whatever MLflow raises means the same here: it cannot, and says why
        raise TrainkitError(f"MLflow did not take it: {reason(error)}") from error


def _moved(client: Any, what: str, folder: RunFolder, tracker: Mlflow, given: dict[str, str], rule: Rule | None) -> int:
    version = _of_run(client, folder, tracker) if folder.config.is_file() else None
    if "--back" in given:
        say(back(client, version.name if version else _parts(what)[0], given["--to"]))
        return EXIT_DONE
    done, told = promote(client, version or _of_model(client, what), given["--to"], rule)
    say(told, error=not done)
    return EXIT_DONE if done else EXIT_FAILED


def _read(words: Sequence[str]) -> tuple[str, dict[str, str]]:
    """What is promoted, and the options."""
    plain, given, wrong = split(words, {"--to": None, "--if": None}, ["--back"])
    uris, plain = [w for w in plain if w.startswith(URI)], [w for w in plain if not w.startswith(URI)]
    if uris:
        given[URI] = uris[-1].removeprefix(URI)
    whole = len(plain) == 1 and not plain[0].startswith("-") and "--to" in given
    if wrong or not whole or {"--if", "--back"} <= given.keys():
        hint = "for example promote runs/a --to champion --if 'eval_loss<=champion'"
        raise ConfigError([Problem("", "", f"the command is: {USAGE}", hint)])
    return plain[0], given


def _rule(text: str) -> Rule:
    found = read_rule(text)
    if found is None:
        said = "should be a metric, one of < <= > >=, and an alias or a number"
        raise ConfigError([Problem("--if", text, said, "for example 'eval_loss<=champion'")])
    return found


def _tracker(folder: RunFolder) -> Mlflow:
    found = [part for part in parts(load(folder.config).tracker).values() if isinstance(part, Mlflow)]
    tracker = found[0] if found else None
    if tracker is None or tracker.registry is None:
        hint = "give the run tracker.registry=NAME, and `trainkit mlflow sync RUN` where it has ended"
        raise ConfigError([Problem("", "", f"{folder.root} registers no model", hint)])
    return tracker


def _of_run(client: Any, folder: RunFolder, tracker: Mlflow) -> Any:
    run_id, name = noted(folder.root).get("run_id"), tracker.registry or ""
    versions = versions_of(client, name, run_id) if run_id else []
    if not versions:
        raise TrainkitError(f"{folder.root} has registered no version of {name}: it does so once it is done")
    return versions[-1]


def _of_model(client: Any, what: str) -> Any:
    name, alias, number = _parts(what)
    return client.get_model_version(name, number) if number else client.get_model_version_by_alias(name, alias)


def _parts(what: str) -> tuple[str, str, str]:
    found = MODEL.fullmatch(what)
    if found is None:
        raise ConfigError([Problem("", "", f"{what} is no run folder and no model", "NAME, NAME@ALIAS or NAME/3")])
    return found[1], found[2] or CANDIDATE, found[3] or ""
