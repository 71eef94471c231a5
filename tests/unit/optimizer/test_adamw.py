"""AdamW moves weights as its paper says, and decays matrices only."""

from __future__ import annotations

import torch
from torch import nn

from trainkit.optimizer.adamw import AdamW


def test_two_steps_are_those_of_the_paper() -> None:
    """Algorithm 2 of arXiv:1711.05101 in float64, with torch's convention that the decay is multiplied by the rate."""
    lr, (beta1, beta2), eps, decay = 0.1, (0.8, 0.95), 1e-6, 0.3
    torch.manual_seed(0)
    matrix, bias = nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(3))
    named = [("matrix", matrix), ("bias", bias)]
    optimizer = AdamW(lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=decay).build(named)
    expected = [p.detach().double().clone() for _, p in named]
    moments = [(torch.zeros_like(e), torch.zeros_like(e)) for e in expected]
    for t in (1, 2):
        for i, (_, p) in enumerate(named):
            p.grad = torch.randn_like(p)
            gradient, (m, v) = p.grad.double(), moments[i]
            m, v = beta1 * m + (1 - beta1) * gradient, beta2 * v + (1 - beta2) * gradient**2
            moments[i] = m, v
            step = (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + eps)
            decayed = expected[i] * (1 - lr * decay) if p.ndim >= 2 else expected[i]
            expected[i] = decayed - lr * step
        optimizer.step()
    for (name, p), value in zip(named, expected, strict=True):
        torch.testing.assert_close(p.detach().double(), value, rtol=1e-5, atol=1e-6, msg=name)


def test_a_model_with_one_kind_of_parameter_has_one_group() -> None:
    """torch refuses an empty group."""
    adamw = AdamW(lr=0.1, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1)
    for shape, decay in (((2, 2), 0.1), ((2,), 0.0)):
        optimizer = adamw.build([("only", nn.Parameter(torch.zeros(shape)))])
        assert [group["weight_decay"] for group in optimizer.param_groups] == [decay]
