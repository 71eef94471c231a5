"""Ranks that differ are told apart before the first step: one error, the same on every rank, that names them."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.conformance.decoder import DecoderTask
from tests.conformance.pool import Pool
from tests.conformance.settings import make
from trainkit import main
from trainkit.errors import TrainkitError
from trainkit.handshake import shake_hands
from trainkit.protocols import Data
from trainkit.runfolder import RunFolder
from trainkit.strategy.local import Local

ODD = 1  # the rank that is different


def odd() -> bool:
    return os.environ["RANK"] == str(ODD)


@dataclass(frozen=True, kw_only=True)
class OtherSample(DecoderTask):
    """Equally many samples on every rank, of which the last one differs."""

    def build_data(self) -> Data:
        data: Any = super().build_data()
        data.train.ids[-1, 0] = 3 if odd() else 4
        return data  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True)
class MoreHeldout(DecoderTask):
    def build_data(self) -> Data:
        return DecoderTask(heldout=self.heldout + 2 * odd()).build_data()


@dataclass(frozen=True, kw_only=True)
class OtherBias(DecoderTask):
    def build_model(self) -> nn.Module:
        model: Any = super().build_model()
        with torch.no_grad():
            model.layers[0].up.bias[0] = 1.0 + odd()
        return model  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True)
class OtherName(DecoderTask):
    def build_model(self) -> nn.Module:
        model: Any = super().build_model()
        if odd():
            model.crown = model.head
            del model.head
        return model  # type: ignore[no-any-return]


def refused(folder: str, strategy: str, options: dict[str, Any], different: dict[str, Any]) -> str:
    """As main.fit goes, but with a world that is closed: frameworks keep theirs in the process."""
    settings = make(folder, strategy=strategy, **options | (different if odd() else {}))
    world = settings.strategy.connect("cpu")
    try:
        with pytest.raises(TrainkitError) as raised:
            shake_hands(settings, settings.recipe.build_data(), world)
            settings.strategy.build(main.training(settings), world)
        return str(raised.value)
    finally:
        world.barrier()  # a rank that leaves earlier would end the other's collectives with an error of their own
        world.close()


CASES: list[tuple[dict[str, Any], dict[str, Any], list[str]]] = [
    ({}, {"seed": 8}, ["configurations: rank 1 on", "train.seed: 8 on rank 1, 7 on rank 0", "config.yaml"]),
    ({}, {"eval_every": 3}, ["train.eval_every: 3 on rank 1, None on rank 0"]),
    ({}, {"task": DecoderTask(samples=54)}, ["recipe.samples: 54 on rank 1, 53 on rank 0"]),
    ({"task": OtherSample()}, {}, ["different data: rank 1 on", "train samples [0, 26, 52]: checksum ", "sample ids"]),
    ({"task": MoreHeldout()}, {}, ["heldout samples: 13 on rank 1, 11 on rank 0"]),
]


@pytest.mark.parametrize(("options", "different", "told"), CASES)
def test_what_one_rank_has_alone_is_named(
    options: dict[str, Any], different: dict[str, Any], told: list[str], pool: Pool, tmp_path: Path
) -> None:
    texts = pool.run(3, refused, str(tmp_path), "ddp", options, different)
    assert len(set(texts)) == 1
    assert [part for part in told if part not in texts[0]] == []


@pytest.mark.parametrize(
    "strategy", ["ddp", "accelerate", "horovod", "fsdp", "tensor", "pipeline", "zero1", "zero2", "zero3"]
)
def test_another_model_is_named_under_every_strategy(strategy: str, pool: Pool, tmp_path: Path) -> None:
    for text in pool.run(2, refused, str(tmp_path), strategy, {"task": OtherBias()}, {}):
        assert "the ranks have built different models: rank 1 on" in text
        assert "the parameter layers.0.up.bias: (128,) checksum" in text
        assert text.count("on rank 1, ") == 1


def test_names_that_only_one_rank_has_are_told(pool: Pool, tmp_path: Path) -> None:
    (text, _) = pool.run(2, refused, str(tmp_path), "ddp", {"task": OtherName()}, {})
    assert "the parameter head.weight: missing on rank 1, (61, 32) checksum" in text
    assert "missing on rank 0" in text


def alone(folder: str) -> str:
    with pytest.raises(TrainkitError) as raised:
        main.fit(main.with_data(make(folder, strategy="local")), RunFolder(Path(folder)), 1)
    return str(raised.value)


def test_a_rank_that_sees_no_others_is_refused(pool: Pool, tmp_path: Path) -> None:
    for text in pool.run(2, alone, str(tmp_path)):
        assert text.startswith("the launcher started 2 ranks, but strategy=local joined a group of 1")


class Crowded(Local):
    """A strategy at fault: all of its ranks read the first share."""

    def connect(self, device: str) -> Any:
        from trainkit.strategy._world import Group, connect

        class Misplaced(Group):
            dp_rank = 0  # type: ignore[assignment]

        world = connect(device, 60)
        return Misplaced(device=world.device, rank=world.rank, size=world.size)


def crowded(folder: str) -> str:
    settings = replace(make(folder), strategy=Crowded())
    with pytest.raises(TrainkitError) as raised:
        main.fit(main.with_data(settings), RunFolder(Path(folder)), 1)
    torch.distributed.destroy_process_group()
    return str(raised.value)


def test_ranks_that_read_the_same_share_are_a_fault(pool: Pool, tmp_path: Path) -> None:
    for text in pool.run(2, crowded, str(tmp_path)):
        assert text.startswith("2 of 2 ranks say that they read share 0 of 2 of the data; 1 should")
