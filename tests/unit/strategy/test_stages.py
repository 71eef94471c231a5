"""A model cut into stages: names, stand-ins, what is refused and by what name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.conformance.decoder import LENGTH, DecoderTask
from trainkit.errors import ConfigError, TrainkitError
from trainkit.parts import Parts
from trainkit.strategy._stages import keeping, prove, sections

IDS = torch.arange(3 * LENGTH).view(3, LENGTH)


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_the_stages_together_are_the_model(stages: int) -> None:
    task = DecoderTask()
    model = task.build_model()
    found, parts = sections(task, model, stages, None)
    cut = [keeping(model, found.units, found.of([s])) for s in range(stages)]
    names = [name for part in cut for name, _ in part.named_parameters()]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    hidden: Any = None
    for number, part in enumerate(cut):
        hidden = parts.forward(part, hidden, {"ids": IDS}, number == stages - 1)
    assert torch.equal(hidden, model(IDS))


def test_stages_of_one_rank_and_the_view_of_them_share_their_weights() -> None:
    task = DecoderTask()
    model = task.build_model()
    found, _ = sections(task, model, 4, None)
    both = dict(keeping(model, found.units, found.of([0, 2])).named_parameters())
    assert {name.split(".")[1] for name in both if name.startswith("layers")} == {"0", "2"}
    for stage in (0, 2):
        for name, parameter in keeping(model, found.units, found.of([stage])).named_parameters():
            assert both[name] is parameter
    assert len(list(model.parameters())) > len(both)  # the model itself is as it was


@pytest.mark.parametrize("cut", [[1, 3], ["layers.1", "layers.3"], [1, "layers.3"]])
def test_a_cut_by_numbers_or_names(cut: list[int | str]) -> None:
    task = DecoderTask()
    assert list(sections(task, task.build_model(), 3, cut)[0].bounds) == [0, 1, 3, 4]


class Changed(DecoderTask):
    """A decoder of which something is changed."""

    def __init__(self, model: Callable[[Any], None] | None = None, **parts: Any) -> None:
        super().__init__()
        object.__setattr__(self, "change", (model, parts))

    def build_model(self) -> nn.Module:
        built = super().build_model()
        change, _ = vars(self)["change"]
        if change is not None:
            change(built)
        return built

    def pipeline(self, model: nn.Module) -> Parts | None:
        parts = super().pipeline(model)
        _, changes = vars(self)["change"]
        if "none" in changes or parts is None:
            return None
        return replace(parts, **{key: change(model) for key, change in changes.items()})


def loose(model: Any) -> None:
    model.bias = nn.Parameter(torch.zeros(1))


def one_layer_twice(model: Any) -> None:
    model.layers[2] = model.layers[1]


def blocks_share(model: Any) -> None:
    model.layers[3].up.weight = model.layers[0].up.weight


@pytest.mark.parametrize(
    ("task", "stages", "cut", "told"),
    [
        (Changed(none=None), 2, None, "the model Decoder does not say how it is cut into stages"),
        (DecoderTask(), 5, None, "5 stages need as many blocks, and the model Decoder has 4"),
        (Changed(one_layer_twice), 4, None, "4 stages need as many blocks, and the model Decoder has 3"),
        (Changed(loose), 2, None, "the parameter bias of the model Decoder is in no stage"),
        (Changed(last=lambda m: [m.head]), 2, None, "the parameter norm.weight of the model Decoder is in no stage"),
        (Changed(blocks_share), 2, None, "layers.0 and layers.3 of the model Decoder share weights"),
        (DecoderTask(), 3, [2, 2], "should name blocks between 1 and 3, each after the one before"),
        (DecoderTask(), 2, ["layers.7"], "'layers.7' is not"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(task: DecoderTask, stages: int, cut: Any, told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        sections(task, task.build_model(), stages, cut)
    assert told in str(raised.value)


def twice_normed(model: Any, hidden: Tensor | None, inputs: Mapping[str, Tensor], is_last: bool) -> Any:
    x = model.embed(inputs["ids"]) if hidden is None else hidden
    return model.decode(x * 1.01)  # in every stage, where the whole model does not do it once


def test_a_forward_that_does_more_around_its_blocks_is_found() -> None:
    for task, wrong in [(DecoderTask(), False), (Changed(forward=lambda _: twice_normed), True)]:
        model = task.build_model()
        found, parts = sections(task, model, 2, None)
        if not wrong:
            prove(model, found, parts)
            continue
        with pytest.raises(TrainkitError, match="the model Decoder computes something else when it is cut"):
            prove(model, found, parts)
        assert model.training
