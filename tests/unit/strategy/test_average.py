"""Looking at a model leaves no trace in it, whatever happens while one looks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainkit.canonical import trainable
from trainkit.strategy._average import Average, evaluating


def test_a_fault_while_evaluating_leaves_weights_average_and_mode_as_they_were() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    average = Average(trainable(model), 0.9)
    with torch.no_grad():
        for p in model.parameters():
            p += 1
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    averaged = {name: value.clone() for name, value in average.state.items()}
    with pytest.raises(ZeroDivisionError), evaluating(model, average):
        assert not model.training
        assert not torch.is_grad_enabled()
        assert all(torch.equal(p, averaged[name]) for name, p in model.named_parameters())
        raise ZeroDivisionError
    assert model.training
    assert torch.is_grad_enabled()
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())
    assert all(torch.equal(value, averaged[name]) for name, value in average.state.items())


def test_frozen_weights_are_not_averaged_and_the_average_is_its_own_memory() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    average = Average(trainable(model), 0.75)
    assert list(average.state) == ["weight"]
    start = model.weight.detach().clone()
    with torch.no_grad():
        model.weight += 4
    average.update()
    torch.testing.assert_close(average.state["weight"], start + 1)
