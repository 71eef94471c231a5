"""What the documentation says of keys and files is what there is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
ROW = re.compile(r"^\| `(?P<key>[a-z_.]+)` \| `(?P<default>[^`]+)` \|", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)(?P<path>[^)#]*)(?:#(?P<heading>[^)]*))?\)")
NAMED = re.compile(r"`((?:trainkit|recipes|conf|tests|benchmarks)/[a-z0-9_/.]+)`")


def leaves(node: Any, prefix: str) -> Iterator[tuple[str, str]]:
    """Dotted keys and their values, as text, of what a YAML file holds."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from leaves(value, f"{prefix}.{name}" if prefix else name)
    else:
        yield prefix, str(node)


def keys_of_conf() -> set[tuple[str, str]]:
    """The keys of conf/ with their defaults; those of recipes are in docs/recipes.md."""
    config = yaml.safe_load((ROOT / "conf/config.yaml").read_text())
    del config["defaults"]
    found = set(leaves(config, ""))
    for path in (ROOT / "conf").glob("*/*.yaml"):
        if path.parent.name not in ("recipe", "cluster"):  # a machine is no key of a run: docs/plan.md
            found |= set(leaves(yaml.safe_load(path.read_text()), path.parent.name))
    return {(key, value) for key, value in found if not key.endswith("._target_")}


def test_every_key_is_explained_with_its_default() -> None:
    rows = ROW.findall((ROOT / "docs/configuration.md").read_text())
    assert {(key, str(yaml.safe_load(default))) for key, default in rows} == keys_of_conf()


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for link in LINK.finditer(path.read_text()):
        target = (path.parent / link["path"]) if link["path"] else path
        assert target.exists(), link[0]
        if link["heading"]:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert link["heading"] in [h.lower().replace(" ", "-") for h in headings], link[0]


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_files_that_are_named_exist(path: Path) -> None:
    yours = {"recipes/mine.py", "conf/recipe/mine.yaml"}  # those that a reader writes
    assert [name for name in NAMED.findall(path.read_text()) if name not in yours and not (ROOT / name).exists()] == []
