"""One's own conf/ and recipes/ come first, wherever one is; what is shipped is found everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.conftest import write
from trainkit.config.bundle import bundle, components, describe, folders


def test_ones_own_folder_is_searched_before_the_shipped_one(project: Path) -> None:
    assert folders("conf") == [project / "conf", bundle("conf")]
    write(project / "conf/strategy/ddp.yaml", "# Mine.\n")
    assert components("strategy")["ddp"] == project / "conf/strategy/ddp.yaml"
    assert components("strategy")["local"] == bundle("conf") / "strategy/local.yaml"
    assert list(components("recipe")) == sorted(components("recipe"))


def test_in_the_checkout_a_folder_is_not_searched_twice(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle("conf").parent)
    assert folders("conf") == [bundle("conf")]


def test_the_description_is_the_first_comment_that_is_meant_for_people(tmp_path: Path) -> None:
    for text, said in (
        ("# @package _global_\n# Mine, in one line.\n# More.\nx: 1\n", "Mine, in one line."),
        ("x: 1   # not this\n", ""),
        ("", ""),
    ):
        write(tmp_path / "x.yaml", text)
        assert describe(tmp_path / "x.yaml") == said
