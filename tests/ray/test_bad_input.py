"""What is wrong with a cluster, or with what is asked of it, is said in one message; nothing is started or written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.command import trainkit
from tests.ray.cluster import Cluster

WORDS = ("recipe=image_classification", "train.device=cpu", "strategy=ddp", "tracker=none", "run.dir=run")


def refused(folder: Path, *words: str) -> str:
    said = trainkit(folder, *WORDS, "launcher=ray", *words)
    assert said.returncode == 2, said.stdout + said.stderr
    assert "1 problem; nothing was started" in said.stdout + said.stderr
    assert not (folder / "run").exists()
    return said.stdout + said.stderr


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_an_address_that_nobody_answers(tmp_path: Path, address: str) -> None:
    pytest.importorskip("ray", reason="pip install 'trainkit[ray]'")
    said = refused(tmp_path, f"launcher.address={address}")
    assert f"launcher.address={address}: no Ray cluster answers there" in said


def test_a_dashboard_that_does_not_answer(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="pip install 'trainkit[ray]'")
    said = trainkit(tmp_path, "ray", "submit", "--address", "http://127.0.0.1:1", *WORDS)
    assert said.returncode == 2
    assert "--address=http://127.0.0.1:1: no Ray dashboard answers there" in said.stdout + said.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_more_than_the_cluster_has(cluster: Cluster, tmp_path: Path) -> None:
    address = f"launcher.address={cluster.address}"
    said = refused(tmp_path, address, "launcher.workers=8")
    assert "launcher.workers=8: a worker needs 1 CPU, and the cluster has room for 4" in said
    said = refused(tmp_path, address, "launcher.workers=4", "launcher.placement=STRICT_SPREAD")
    assert "launcher.placement=STRICT_SPREAD: 4 workers are to be on as many nodes, and 2 have room for one" in said


@pytest.mark.slow
def test_a_recipe_that_the_workers_do_not_have(cluster: Cluster, tmp_path: Path) -> None:
    """The workers' disk is this one, so a folder that they do not have is made up, as the check would be asked."""
    from trainkit.errors import ConfigError
    from trainkit.launcher import _ray_check

    wanted = {
        "address": cluster.address,
        "workers": [2, 2],
        "resources": {"CPU": 1},
        "placement": "PACK",
        "runtime_env": {},
        "join_s": 60.0,
        "start_s": 60.0,
        "root": str(tmp_path),
    }
    with pytest.raises(ConfigError, match=r"folder /nowhere of this command is not there on 127\.0\.0\.[23], 127"):
        _ray_check.ask(wanted | {"folder": "/nowhere", "recipe": None})
    with pytest.raises(ConfigError, match=r"recipe=recipes/mine.py: the file is not there on 127\.0\.0\.[23], 127"):
        _ray_check.ask(wanted | {"folder": str(tmp_path), "recipe": "recipes/mine.py"})


@pytest.mark.slow
def test_another_version_of_ray(cluster: Cluster, tmp_path: Path) -> None:
    """A driver whose Ray says that it is another."""
    (tmp_path / "sitecustomize.py").write_text("import ray\nray.__version__ = '2.50.0'\n")
    said = trainkit(
        *(tmp_path, *WORDS, "launcher=ray", f"launcher.address={cluster.address}"),
        PYTHONPATH=f"{tmp_path}:{Path(__file__).parents[2]}",
    )
    assert said.returncode == 2, said.stdout + said.stderr
    assert f"launcher.address={cluster.address}: the cluster has other versions" in said.stdout + said.stderr
    assert not (tmp_path / "run").exists()
