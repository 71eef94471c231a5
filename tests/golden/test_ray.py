"""The files in launch/ for Ray are what `trainkit ray render` prints; no cluster is asked."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from trainkit.cli.ray.render import rendered

FOLDER = Path(__file__).parents[2] / "launch"
WORDS = (
    *("recipe=llm_pretrain", "strategy=fsdp", "launcher.workers=2:4", "launcher.gpus=8", "launcher.ranks=8"),
    *("launcher.cpus=4", "launcher.resources.memory=137438953472", "run.dir=/shared/runs/a"),
)
RENDERED = {"rayjob": "rayjob", "ray_cluster": "cluster"}


@pytest.mark.parametrize("name", RENDERED)
def test_the_file_is_the_committed_one(
    name: str, write_golden: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="pip install 'trainkit[ray]'")
    monkeypatch.chdir(tmp_path)  # the shipped files alone, whatever the working directory has
    text = rendered(RENDERED[name], WORDS)
    golden = FOLDER / f"{name}.yaml"
    if write_golden:
        golden.write_text(text)
    assert text == golden.read_text(), f"if {golden} is to change: make golden, and commit the difference"


def test_a_rayjob_has_the_run_as_its_command_and_a_pod_for_each_worker() -> None:
    job = yaml.safe_load((FOLDER / "rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["spec"]["entrypoint"].startswith("python -m trainkit recipe=llm_pretrain strategy=fsdp")
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert (group["minReplicas"], group["replicas"], group["maxReplicas"]) == (2, 4, 4)
    (container,) = group["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"cpu": "32", "memory": "192Gi", "nvidia.com/gpu": 8}
