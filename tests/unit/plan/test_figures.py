"""What is reckoned from small simulations is what a simulation of the whole says."""

from __future__ import annotations

import pytest
import torch

from recipes.image_classification import ImageClassification
from recipes.llm_pretrain import LlmPretrain
from tests.conformance.settings import make
from trainkit.main import training
from trainkit.plan import flops
from trainkit.plan.figures import Figures, Once
from trainkit.simulation.simulate import share, simulate

SHAPE = {"width": 64, "heads": 4, "kv_heads": 4, "vocab": 512, "seq_len": 32}
TASK = LlmPretrain(size="tiny", layers=9, corpus="kjv", heldout=0.1, sample_prompt=None, **SHAPE)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "ranks"), [("ddp", 2), ("fsdp", 4), ("tensor-sequence", 2), ("zero3", 4)])
def test_nine_layers_and_five_micro_batches_are_reckoned(name: str, ranks: int) -> None:
    readers = make("", name).strategy.dp_size(ranks)
    settings = make("", name, task=TASK, global_batch=readers * 10, micro_batch=2)
    load, rank = Figures(settings, ranks).load(2, 5), simulate(settings, ranks).rank(0)
    kinds = rank.memory.kinds()
    assert load.parameters == pytest.approx(kinds["weights"], rel=0.002)
    assert load.gradients == pytest.approx(kinds["gradients"], rel=0.002)
    assert load.moments == pytest.approx(kinds["moments"], rel=0.002)
    assert load.activations == pytest.approx(kinds["activations"], rel=0.02)
    assert sum(c.sent for c in load.collectives) == pytest.approx(sum(c.sent for c in rank.collectives), rel=0.02)


@pytest.mark.slow
def test_a_pipeline_is_reckoned_from_its_ends() -> None:
    settings = make("", "pipeline", task=TASK, global_batch=10, micro_batch=2)
    load = Figures(settings, 2).load(2, 5)
    ends = [simulate(settings, 2).rank(number).memory for number in (0, 1)]
    assert load.parameters in [pytest.approx(end.weights, rel=0.01) for end in ends]
    assert load.activations in [pytest.approx(end.activations, rel=0.05) for end in ends]


def test_weights_that_a_layer_has_of_its_own_are_no_activations_when_they_are_gathered() -> None:
    task = ImageClassification(width=64, dropout=0.1)
    whole, divided = (make("", name, task=task, global_batch=16, micro_batch=8) for name in ("ddp", "fsdp"))
    assert Figures(divided, 2).load(8, 1).activations == Figures(whole, 2).load(8, 1).activations


def test_what_one_process_does_is_found_once_for_all_strategies() -> None:
    once = Once()
    settings = [make("", name, global_batch=24, micro_batch=2) for name in ("ddp", "zero1", "zero3")]
    found = [once(training(each), share(each, 2)) for each in settings]
    assert found[0] is found[1] is found[2]
    other = make("", "ddp", global_batch=24, micro_batch=2, precision="bf16")
    assert once(training(other), share(other, 2)) is not found[0]


def test_operations_are_those_of_the_products_and_of_attention() -> None:
    """2 for each weight of a matrix and token, and 4 x length x width a layer and token for attention."""
    model = TASK.build_model()
    weights = sum(p.numel() for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n)
    tokens = 3 * 32
    expected = tokens * (2 * weights + 9 * 4 * 32 * 64)
    assert flops.forward(TASK, TASK.example(3)) == pytest.approx(expected, rel=0.001)
    assert not torch.distributed.is_initialized()
