"""The resolved configuration of every shipped recipe, one dotted key per line, so that a change of any default shows
as a line of a diff."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from trainkit.config import build, compose

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent / "configs"
RECIPES = sorted(path.stem for path in (ROOT / "conf/recipe").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_configuration_is_the_committed_one(
    recipe: str, write_golden: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the shipped files alone, whatever the working directory has
    config = compose([f"recipe={recipe}", "run.dir=/RUN"])
    assert build(config)[1] == []
    text = "".join(f"{line}\n" for line in lines(config, ""))
    golden = FOLDER / f"{recipe}.txt"
    if write_golden:
        FOLDER.mkdir(exist_ok=True)
        golden.write_text(text)
    assert text == golden.read_text(), f"if {golden} is to change: make golden, and commit the difference"


def test_no_file_is_left_of_a_recipe_that_is_gone() -> None:
    assert sorted(path.stem for path in FOLDER.iterdir()) == RECIPES


def lines(node: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from lines(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}={json.dumps(value)}"
