"""Machines by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainkit.config.bundle import components
from trainkit.errors import ConfigError
from trainkit.plan.machine import HERE, keep, site


@pytest.mark.parametrize("kind", components("cluster"))
def test_every_file_describes_a_machine_and_says_where_its_figures_are_from(kind: str) -> None:
    assert site(kind).ranks == site(kind).machine.per_node
    lines = components("cluster")[kind].read_text().splitlines()
    assert all("#" in line for line in lines)


@pytest.mark.parametrize(("word", "ranks", "hosts"), [("8xh100", 8, 1), ("1xa100", 1, 1), ("1024xh200", 1024, 128)])
def test_a_count_is_of_devices(word: str, ranks: int, hosts: int) -> None:
    found = site(word)
    assert (found.ranks, found.hosts, found.cluster().hosts) == (ranks, hosts, hosts)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("8 of them", "is no COUNTxKIND"),
        ("8xh10", "(?s)no such machine.*h100"),
        ("12xh100", "(?s)no whole nodes.*8 or 16"),
    ],
)
def test_what_is_no_machine_is_refused(word: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        site(word)


def test_this_machine_is_known_once_it_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINKIT_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match="--calibrate"):
        site(HERE)
    keep(site("cpu").machine)
    assert site(HERE).machine == site("cpu").machine


def test_a_file_of_ones_own_that_lacks_something_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "conf" / "cluster").mkdir(parents=True)
    text = components("cluster")["h100"].read_text()
    (tmp_path / "conf" / "cluster" / "mine.yaml").write_text(text)
    (tmp_path / "conf" / "cluster" / "bad.yaml").write_text(text.replace("attained: 0.5", "attained: 5"))
    monkeypatch.chdir(tmp_path)
    assert site("mine").machine == site("h100").machine
    with pytest.raises(ConfigError, match="attained"):
        site("bad")
