"""A model of a library, with tied embeddings or with adapters, divided in every way that there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.llama import LlamaTask
from tests.conformance.pool import Pool
from tests.conformance.test_same_run import same_run
from tests.conformance.training import train
from trainkit.runfolder import read_lines

MESHES = [("fsdp", 2), ("tensor", 2), ("mesh-shard-tensor", 4), ("mesh-replicas-tensor", 4)]
MESHES += [("mesh-context", 2)]
ZEROS = [("zero1", 2), ("zero2", 4), ("zero3", 2), ("zero3-offload", 2)]
PIPELINES = [("pipeline", 2), ("pipeline-zero-single", 2), ("pipeline-shard", 4), ("mesh-pipeline-tensor", 4)]


@pytest.fixture(scope="module", params=[False, True], ids=["tied", "lora"])
def reference(
    request: pytest.FixtureRequest, pool: Pool, tmp_path_factory: pytest.TempPathFactory
) -> tuple[bool, Path]:
    folder = tmp_path_factory.mktemp("llama")
    pool.run(1, train, str(folder), 1, None, {"strategy": "local", "task": LlamaTask(lora=request.param)})
    return request.param, folder


@pytest.mark.parametrize(("name", "ranks"), MESHES + ZEROS + PIPELINES)
def test_tied_embeddings_and_adapters(
    name: str, ranks: int, pool: Pool, reference: tuple[bool, Path], tmp_path: Path
) -> None:
    """And a sample is drawn before and after, whose generation passes the model's own forward by; not in a pipeline,
    which draws none."""
    lora, folder = reference
    if lora and name == "mesh-shard-tensor":
        name = "mesh-replicas-tensor"  # no plan of an adapted model names its sequence
    pool.run(ranks, train, str(tmp_path), 1, None, {"strategy": name, "task": LlamaTask(lora=lora)})
    same_run(tmp_path, folder, 1e-5, 1e-4)
    expected = _samples(folder)
    assert len(expected) == 2
    assert _samples(tmp_path) == ([] if (name, ranks) in PIPELINES else expected)


def _samples(folder: Path) -> list[str]:
    return [e["text"] for e in read_lines(folder / "events.jsonl") if e["event"] == "sample"]
