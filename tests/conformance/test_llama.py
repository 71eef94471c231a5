"""A model of a library, with tied embeddings or with adapters, under every strategy."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.cells import STRATEGIES, WHOLE, strategy_of
from tests.conformance.llama import LlamaTask
from tests.conformance.pool import Pool
from tests.conformance.test_same_run import halved, same_run
from tests.conformance.training import tensors, train
from trainkit.runfolder import read_lines

MESHES = [("fsdp", 2), ("tensor", 2), ("mesh-shard-tensor", 4), ("mesh-replicas-tensor", 4)]
MESHES += [("mesh-context", 2)]
ZEROS = [("zero1", 2), ("zero2", 4), ("zero3", 2), ("zero3-offload", 2)]
PIPELINES = [("pipeline", 2), ("pipeline-zero-single", 2), ("pipeline-shard", 4), ("mesh-pipeline-tensor", 4)]
QUICK = [("ddp", 2), ("fsdp", 2), ("tensor", 2), ("zero3", 2), ("pipeline", 2)]
SLOW = [("mesh-shard-tensor", 4), ("zero2", 4), ("pipeline-shard", 4)]
CELLS = [
    *QUICK,
    *(pytest.param(*cell, marks=pytest.mark.slow) for cell in SLOW),
    *(
        pytest.param(*cell, marks=(pytest.mark.slow, pytest.mark.drill))
        for cell in WHOLE + MESHES + ZEROS + PIPELINES
        if cell not in QUICK + SLOW
    ),
]


@pytest.fixture(scope="module", params=[False, True], ids=["tied", "lora"])
def reference(
    request: pytest.FixtureRequest, pool: Pool, tmp_path_factory: pytest.TempPathFactory
) -> tuple[bool, Path]:
    folder = tmp_path_factory.mktemp("llama")
    pool.run(1, train, str(folder), 1, None, {"strategy": "local", "task": LlamaTask(lora=request.param)})
    return request.param, folder


@pytest.mark.proves("LoRA")
@pytest.mark.parametrize(("strategy", "ranks"), CELLS)
def test_tied_embeddings_and_adapters(
    strategy: str, ranks: int, pool: Pool, reference: tuple[bool, Path], tmp_path: Path
) -> None:
    """And a sample is drawn before and after, whose generation passes the model's own forward by; not in a pipeline,
    which draws none."""
    lora, folder = reference
    if lora and strategy == "mesh-shard-tensor":
        strategy = "mesh-replicas-tensor"  # no plan of an adapted model names its sequence
    options = {"strategy": strategy, "task": LlamaTask(lora=lora), "micro_batch": halved(strategy, ranks)}
    pool.run(ranks, train, str(tmp_path), 1, None, options)
    same_run(tmp_path, folder, 1e-5, 1e-4)
    expected = _samples(folder)
    assert len(expected) == 2
    assert _samples(tmp_path) == ([] if (strategy, ranks) in PIPELINES else expected)


@pytest.mark.proves("LoRA", strategy="local")
@pytest.mark.parametrize("reference", [True], ids=["lora"], indirect=True)
def test_adapters_alone_are_trained(reference: tuple[bool, Path]) -> None:
    trained = [name for name in tensors(reference[1], 20) if name.startswith("model.")]
    assert len(trained) == 2 * 7 * 2  # layers, matrices of each, A and B
    assert all("lora_" in name for name in trained)


RELAY = [
    *(
        ("local", 1),
        ("ddp", 2),
        ("fsdp", 4),
        ("tensor", 2),
        ("accelerate", 2),
        ("zero1", 2),
        ("mesh-replicas-tensor", 4),
    ),
    *(("zero2", 2), ("pipeline", 2), ("horovod", 2), ("zero3", 4)),
]


@pytest.mark.parametrize("reference", [True], ids=["lora"], indirect=True)
def test_adapters_are_handed_on_from_strategy_to_strategy(
    pool: Pool, reference: tuple[bool, Path], tmp_path: Path
) -> None:
    """One run of 20 steps, of which every strategy trains one, saves it, and leaves the next to the next; local ends
    it."""
    assert {strategy_of(name) for name, _ in RELAY} == {strategy_of(name) for name in STRATEGIES}
    task = LlamaTask(lora=True)
    for attempt, (strategy, ranks) in enumerate(RELAY, 1):
        options = {"strategy": strategy, "task": task, "micro_batch": halved(strategy, ranks)}
        ended = pool.run(ranks, train, str(tmp_path), attempt, 1, options)
        assert ended == ["stopped"] * ranks
    assert pool.run(1, train, str(tmp_path), len(RELAY) + 1, None, {"task": task}) == ["done"]
    steps = [e["step"] for e in read_lines(tmp_path / "events.jsonl") if e["event"] == "stop"]
    assert steps == list(range(1, len(RELAY) + 1))
    same_run(tmp_path, reference[1], 1e-5, 1e-4)


def _samples(folder: Path) -> list[str]:
    return [e["text"] for e in read_lines(folder / "events.jsonl") if e["event"] == "sample"]
