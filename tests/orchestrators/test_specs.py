"""The job specs in launch/ have the shapes that their services take, and start what trainkit takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from botocore.session import get_session
from botocore.validate import ParamValidator

from trainkit.cli.run import prepare

LAUNCH = Path(__file__).parents[2] / "launch"
SCHEMA = json.loads((Path(__file__).parent / "trainjob.schema.json").read_text())


def trainjob() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((LAUNCH / "kubeflow_trainjob.yaml").read_text())
    return found


def spec(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((LAUNCH / name).read_text())
    return found


def test_the_trainjob_fits_its_schema_and_a_mistake_in_it_does_not() -> None:
    jsonschema.validate(trainjob(), SCHEMA)
    for path in (("spec", "trainer"), ("spec",), ("spec", "runtimePatches", 0)):
        wrong = trainjob()
        node: Any = wrong
        for key in path:
            node = node[key]
        node["numNode"] = 1
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, SCHEMA)


def test_the_volumes_that_are_mounted_are_there() -> None:
    (patch,) = trainjob()["spec"]["runtimePatches"]
    (job,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    (node,) = pod["containers"]
    assert {mount["name"] for mount in node["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert {mount["mountPath"] for mount in node["volumeMounts"]} == {"/runs", "/dev/shm"}


def test_sagemaker_takes_the_job() -> None:
    """As Amazon's own client judges a request before it sends it."""
    shape = get_session().get_service_model("sagemaker").operation_model("CreateTrainingJob").input_shape
    report = ParamValidator().validate(spec("sagemaker.json"), shape)
    assert not report.has_errors(), report.generate_report()
    assert ParamValidator().validate(spec("sagemaker.json") | {"Retry": 1}, shape).has_errors()


def test_vertex_takes_the_job() -> None:
    job = spec("vertex.json")
    assert set(job) == {"displayName", "jobSpec"}
    assert set(job["jobSpec"]) == {"workerPoolSpecs", "scheduling", "baseOutputDirectory"}
    (pool,) = job["jobSpec"]["workerPoolSpecs"]
    assert set(pool) == {"machineSpec", "replicaCount", "diskSpec", "containerSpec"}
    assert set(pool["containerSpec"]) == {"imageUri", "command", "args"}
    assert isinstance(pool["replicaCount"], str)  # an int64 in JSON
    assert job["jobSpec"]["scheduling"]["timeout"].endswith("s")


@pytest.mark.parametrize(
    "command",
    [
        [*trainjob()["spec"]["trainer"]["command"], *trainjob()["spec"]["trainer"]["args"]],
        [
            *spec("sagemaker.json")["AlgorithmSpecification"]["ContainerEntrypoint"],
            *spec("sagemaker.json")["AlgorithmSpecification"]["ContainerArguments"],
        ],
        [
            *spec("vertex.json")["jobSpec"]["workerPoolSpecs"][0]["containerSpec"]["command"],
            *spec("vertex.json")["jobSpec"]["workerPoolSpecs"][0]["containerSpec"]["args"],
        ],
    ],
    ids=["kubeflow", "sagemaker", "vertex"],
)
def test_what_they_start_is_a_run(command: list[str], tmp_path: Path) -> None:
    assert command[:3] == ["python", "-m", "trainkit"]
    words = [word for word in command[3:] if not word.startswith(("run.dir=", "checkpoint.dir="))]
    assert len(words) < len(command) - 3  # a place that outlives the machine
    prepare([*words, f"run.dir={tmp_path}"])
