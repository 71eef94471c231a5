"""Promise 2: written at any rank count, resumed at any other; at the same one, bitwise."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conformance.cells import STRATEGIES
from tests.conformance.decoder import DecoderTask
from tests.conformance.pool import Pool
from tests.conformance.test_same_run import same_averages, same_run
from tests.conformance.training import curve, tensors, train, trained_ids
from trainkit.runfolder import read_lines

EMA: dict[str, Any] = {"ema": 0.9, "checkpoint": {"every": 5}, "eval_every": 4}


@pytest.mark.parametrize(
    ("strategy", "ranks"),
    [
        *(("ddp", 1), ("ddp", 2), ("fsdp", 2), ("pipeline-interleaved", 2)),
        pytest.param("tensor", 2, marks=(pytest.mark.slow, pytest.mark.drill)),
    ],
)
def test_an_interrupted_run_ends_bitwise_where_an_uninterrupted_one_does(
    strategy: str, ranks: int, pool: Pool, tmp_path: Path
) -> None:
    options = EMA | {"strategy": strategy, "task": DecoderTask(dropout=0.2)}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert pool.run(ranks, train, str(whole), 1, None, options) == ["done"] * ranks
    fetches_per_step = -(-12 // STRATEGIES[strategy].dp_size(ranks) // 2)
    stop_at = 6 * fetches_per_step + 1  # during step 7
    assert pool.run(ranks, train, str(broken), 1, stop_at, options) == ["stopped"] * ranks
    assert pool.run(ranks, train, str(broken), 2, None, options) == ["done"] * ranks
    assert 0 < max(r["step"] for r in _events(broken, "stop")) < 20
    ours, theirs = tensors(broken, 20), tensors(whole, 20)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name
    assert trained_ids(broken) == trained_ids(whole)
    drop = {"time", "tokens_per_second", "data_wait", "memory_mb", "evaluation_seconds"}
    assert [{k: v for k, v in r.items() if k not in drop} for r in curve(broken)] == [
        {k: v for k, v in r.items() if k not in drop} for r in curve(whole)
    ]


def test_ranks_that_have_nothing_but_a_url_divide_the_fetching_and_end_bitwise_the_same(
    pool: Pool, tmp_path: Path
) -> None:
    url = (tmp_path / "shared").as_uri()
    whole, first, second = tmp_path / "whole", tmp_path / "first", tmp_path / "second"
    options = {"strategy": "ddp", "checkpoint": {"every": 5}}
    assert pool.run(2, train, str(whole), 1, None, options) == ["done"] * 2
    options |= {"checkpoint": {"every": 5, "dir": url}}
    assert pool.run(2, train, str(first), 1, 6 * 3 + 1, options) == ["stopped"] * 2
    (step,) = [event["step"] for event in _events(first, "stop")]
    assert sorted(event["step"] for event in _events(first, "copy")) == [5, step]  # by rank 0 alone, once each
    shutil.rmtree(first)
    assert pool.run(2, train, str(second), 1, None, options) == ["done"] * 2
    assert [event["step"] for event in _events(second, "start")] == [step]
    ours, theirs = tensors(second, 20), tensors(whole, 20)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert sorted(path.name for path in (tmp_path / "shared").iterdir()) == ["step_10", "step_15", "step_20"]


TRAVEL: dict[str, Any] = {"ema": 0.9, "checkpoint": {"every": 10}, "micro_batch": 6}

# Every kind of strategy, with the rank counts that it writes and reads at in the matrix.
KINDS: dict[str, tuple[int, int]] = {
    "local": (1, 1),
    "ddp": (4, 2),
    "accelerate": (2, 4),
    "horovod": (4, 2),
    "fsdp": (4, 2),
    "tensor": (2, 4),
    "pipeline": (4, 2),
    "mesh-shard-tensor": (4, 4),
    "mesh-pipeline-shard": (4, 4),
    "zero1": (4, 2),
    "zero2": (2, 4),
    "zero3": (4, 2),
}

# Besides the matrix: variants that keep their state in another way.
VARIANTS = [
    (("local", 1), ("fsdp-replicas", 4)),
    (("fsdp-replicas", 4), ("tensor", 2)),
    (("local", 1), ("pipeline-interleaved", 2)),
    (("pipeline-interleaved", 2), ("fsdp-offload", 2)),
    (("fsdp-offload", 2), ("mesh-replicas-tensor", 4)),
    (("tensor", 4), ("pipeline-shard", 4)),
    (("mesh-pipeline-tensor", 4), ("pipeline-zero", 2)),
    (("zero3", 4), ("zero1-offload", 2)),
    (("ddp", 4), ("zero3-kept", 2)),
    (("zero2-offload", 2), ("zero3-offload", 2)),
    (("zero3-offload", 2), ("local", 1)),
]

# A walk through all kinds: each is read once and written once.
WALK = [((a, KINDS[a][0]), (b, KINDS[b][1])) for a, b in pairwise([*KINDS, "local"])]
MATRIX = [((a, KINDS[a][0]), (b, KINDS[b][1])) for a in KINDS for b in KINDS]
# Some of the rest, in which each kind is written for one other and read after one: CI has no time for all.
SLOW = [pair for number, pair in enumerate(MATRIX) if (number // len(KINDS) + number) % 12 == 0 and pair not in WALK]
DRILLS = [pair for pair in MATRIX if pair not in SLOW and pair not in WALK]


@pytest.fixture(scope="module")
def uninterrupted(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    pool.run(1, train, str(folder), 1, None, TRAVEL | {"strategy": "local"})
    return folder


@pytest.fixture(scope="module")
def written(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Path]:
    """The run folder of 20 steps under a strategy whose last checkpoint, of step 20, is lost: to be copied."""

    @cache
    def folder(strategy: str, ranks: int) -> Path:
        folder = tmp_path_factory.mktemp(f"{strategy}-{ranks}")
        pool.run(ranks, train, str(folder), 1, None, TRAVEL | {"strategy": strategy, "micro_batch": 3})
        shutil.rmtree(folder / "checkpoints/step_20")
        return folder

    return folder


@pytest.mark.proves("other rank count")
@pytest.mark.parametrize(
    ("before", "after"),
    [
        *WALK,
        *(pytest.param(*pair, marks=pytest.mark.slow) for pair in SLOW),
        *(pytest.param(*pair, marks=(pytest.mark.slow, pytest.mark.drill)) for pair in [*VARIANTS, *DRILLS]),
    ],
    ids=lambda cell: f"{cell[0]}@{cell[1]}",
)
def test_a_checkpoint_travels(
    before: tuple[str, int],
    after: tuple[str, int],
    pool: Pool,
    uninterrupted: Path,
    written: Callable[[str, int], Path],
    tmp_path: Path,
) -> None:
    """Ten steps under one strategy and ten under another are twenty of `local`: loss, norm, schedule, samples, weights,
    their average and, since they shape the second half, the moments."""
    moved = tmp_path / "moved"
    shutil.copytree(written(*before), moved)
    pool.run(after[1], train, str(moved), 2, None, TRAVEL | {"strategy": after[0]})
    same_run(moved, uninterrupted, 1e-5, 1e-4)
    same_averages(moved, uninterrupted, 1e-4)
    assert [e["step"] for e in _events(moved, "start")] == [0, 10]


def test_a_killed_attempt_leaves_no_row_twice(pool: Pool, reference: Path, tmp_path: Path) -> None:
    """Steps 6 and 7 were trained and logged, but the newest checkpoint is of step 5."""
    lost = tmp_path / "lost"
    with pytest.raises(RuntimeError, match="power cut"):
        pool.run(1, train, str(lost), 1, None, {"checkpoint": {"every": 5}, "task": Dies(fetch=7 * 6 + 1)})
    assert len(curve(lost)) == 7
    pool.run(1, train, str(lost), 2, None, {})
    assert [r["step"] for r in curve(lost)] == list(range(1, 21))
    assert trained_ids(lost) == trained_ids(reference)


class Dies(DecoderTask):
    def __init__(self, fetch: int) -> None:
        super().__init__()
        object.__setattr__(self, "fetch", fetch)

    def build_data(self) -> Any:
        data = super().build_data()
        fetch, left = data.train.fetch, [self.fetch]  # type: ignore[attr-defined]

        def dying(ids: Any) -> Any:
            left[0] -= 1
            if not left[0]:
                raise OSError("power cut")
            return fetch(ids)

        data.train.fetch = dying  # type: ignore[method-assign]
        return data


def _events(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [e for e in read_lines(folder / "events.jsonl") if e["event"] == kind]
