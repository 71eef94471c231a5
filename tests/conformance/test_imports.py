"""A run goes on from what other programs saved as they would have gone on themselves: same weights, same moments."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.conformance.foreigners import OPTIONS, SAVED, STEPS, with_accelerate, with_deepspeed, with_torch
from tests.conformance.pool import Pool
from tests.conformance.settings import make
from tests.conformance.training import tensors, train
from trainkit.cli.checkpoint.importing import bring, read
from trainkit.errors import ConfigError
from trainkit.foreign.formats import recognise
from trainkit.foreign.source import Foreign


def goes_on(pool: Pool, run: Path, source: Path, kind: str, theirs: dict[str, Tensor]) -> None:
    """Import `source`, train to the end, and compare with the weights that its own program came to."""
    assert recognise(source, None) == kind
    made = bring(make(str(run), **OPTIONS), source, kind, None, False)
    assert made.step == SAVED
    assert pool.run(1, train, str(run), 1, None, OPTIONS | {"resume": "must"}) == ["done"]
    ours = {name.removeprefix("model."): t for name, t in tensors(run, STEPS).items() if name.startswith("model.")}
    assert ours.keys() <= theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name].to(tensor.dtype), rtol=1e-4, atol=1e-6, msg=name)


def test_torch(pool: Pool, tmp_path: Path) -> None:
    theirs = with_torch(tmp_path / "run", tmp_path / "saved.pt")
    goes_on(pool, tmp_path / "run", tmp_path / "saved.pt", "torch", theirs)


def test_accelerate(pool: Pool, tmp_path: Path) -> None:
    theirs = pool.run(2, with_accelerate, str(tmp_path / "run"), str(tmp_path / "saved"))[0]
    goes_on(pool, tmp_path / "run", tmp_path / "saved", "accelerate", theirs)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_deepspeed(stage: int, pool: Pool, tmp_path: Path) -> None:
    source = tmp_path / "saved"
    theirs = pool.run(2, with_deepspeed, str(tmp_path / "run"), str(source), stage)[0]
    goes_on(pool, tmp_path / "run", source, "deepspeed", theirs)
    universal = tmp_path / "universal"
    as_universal(source / f"global_step{SAVED}", universal)
    assert recognise(universal, None) == "deepspeed"
    same(read(source, "deepspeed", {}), read(universal, "deepspeed", {}))
    (lost,) = source.glob("*/*zero_pp_rank_1_*optim_states.pt")
    lost.unlink()
    with pytest.raises(ConfigError, match="the optimizer states of 1 ranks, of 2 that divided"):
        read(source, "deepspeed", {})


def as_universal(source: Path, target: Path) -> None:
    """DeepSpeed's own conversion."""
    from deepspeed.checkpoint import ds_to_universal

    options = {"num_extract_workers": 1, "num_merge_workers": 1, "keep_temp_folder": False, "strict": True}
    folders = {"input_folder": str(source), "output_folder": str(target), "inject_missing_state": True}
    ds_to_universal.main(Namespace(**options, **folders))


def same(a: Foreign, b: Foreign) -> None:
    """Two readings of one state are equal, bit by bit, in all that was trained. Frozen weights DeepSpeed keeps at some
    stages in one of the two forms only."""
    assert a.step == b.step == SAVED
    assert {name: set(kept) for name, kept in a.moments.items()} == {n: set(kept) for n, kept in b.moments.items()}
    for name, kept in a.moments.items():
        assert torch.equal(a.weights[name](), b.weights[name]()), name
        assert all(torch.equal(value(), b.moments[name][key]()) for key, value in kept.items()), name
