"""Promise 2: written at any rank count, resumed at any other; at the same one, bitwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conformance.cells import STRATEGIES
from tests.conformance.decoder import DecoderTask
from tests.conformance.pool import Pool
from tests.conformance.test_same_run import same_run
from tests.conformance.training import curve, tensors, train, trained_ids

EMA: dict[str, Any] = {"ema": 0.9, "checkpoint": {"every": 5}, "eval_every": 4}


@pytest.mark.parametrize(
    ("strategy", "ranks"), [("ddp", 1), ("ddp", 2), ("fsdp", 2), ("tensor", 2), ("pipeline-interleaved", 2)]
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
    drop = {"time", "tokens_per_second", "memory_mb"}
    assert [{k: v for k, v in r.items() if k not in drop} for r in curve(broken)] == [
        {k: v for k, v in r.items() if k not in drop} for r in curve(whole)
    ]


@pytest.mark.proves("other rank count")
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (("ddp", 2), ("local", 1)),
        (("local", 1), ("ddp", 2)),
        (("ddp", 4), ("ddp", 2)),
        (("fsdp", 4), ("local", 1)),
        (("local", 1), ("fsdp-replicas", 4)),
        (("fsdp", 4), ("tensor", 2)),
        (("tensor", 4), ("fsdp", 2)),
        (("mesh-shard-tensor", 4), ("fsdp", 4)),
        (("fsdp-replicas", 4), ("mesh-shard-tensor", 4)),
        (("mesh-shard-tensor", 4), ("local", 1)),
        (("pipeline", 4), ("local", 1)),
        (("local", 1), ("pipeline-interleaved", 2)),
        (("pipeline-interleaved", 2), ("fsdp", 4)),
        (("tensor", 2), ("pipeline-shard", 4)),
        (("mesh-pipeline-tensor", 4), ("pipeline-zero", 2)),
        (("zero1", 2), ("local", 1)),
        (("local", 1), ("zero1", 2)),
        (("zero2", 2), ("local", 1)),
        (("local", 1), ("zero2", 2)),
        (("zero3", 2), ("local", 1)),
        (("local", 1), ("zero3", 2)),
        (("zero1", 2), ("zero3", 4)),
        (("zero3", 4), ("fsdp", 2)),
        (("ddp", 4), ("zero3-kept", 2)),
        (("zero2-offload", 2), ("zero3-offload", 2)),
        (("horovod", 2), ("local", 1)),
        (("local", 1), ("horovod", 2)),
        (("accelerate", 2), ("local", 1)),
        (("local", 1), ("accelerate", 2)),
    ],
)
def test_a_checkpoint_resumes_at_another_rank_count(
    before: tuple[str, int], after: tuple[str, int], pool: Pool, reference: Path, tmp_path: Path
) -> None:
    pool.run(before[1], train, str(tmp_path), 1, 11, {"strategy": before[0], "micro_batch": 1})
    pool.run(after[1], train, str(tmp_path), 2, None, {"strategy": after[0]})
    same_run(tmp_path, reference, 1e-5, 1e-4)


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
    from trainkit.runfolder import read_lines

    return [e for e in read_lines(folder / "events.jsonl") if e["event"] == kind]
