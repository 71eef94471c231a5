"""What a DeepSpeed JSON may say, and what is made of it before the start."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.cells import ZERO
from tests.conformance.settings import make
from trainkit.config import check
from trainkit.errors import Problem
from trainkit.protocols import Cluster
from trainkit.strategy._zero_config import Spread, load
from trainkit.strategy.zero1 import Zero1
from trainkit.strategy.zero2 import Zero2
from trainkit.strategy.zero3 import Zero3

CPU = Cluster(hosts=1, ranks=2, gpus=0, cores=2)
KINDS: dict[int, Any] = {1: Zero1, 2: Zero2, 3: Zero3}
AGREES: dict[str, Any] = {
    "train_batch_size": 12,
    "train_micro_batch_size_per_gpu": 2,
    "gradient_accumulation_steps": 3,
    "gradient_clipping": 0.5,
    "fp16": {"enabled": False},
    "bf16": {"enabled": False},
    "optimizer": {"type": "AdamW", "params": {"lr": 3e-3, "betas": [0.9, 0.99], "eps": 1e-8, "weight_decay": 0.1}},
    "scheduler": {"type": "WarmupCosineLR", "params": {"total_num_steps": 20, "warmup_num_steps": 3}},
    "zero_optimization": {"stage": 2, "overlap_comm": True, "reduce_bucket_size": 1000},
    "wall_clock_breakdown": False,
}
AUTO: dict[str, Any] = {
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "fp16": {"enabled": "auto", "loss_scale": 0},
    "bf16": {"enabled": "auto"},
    "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"}},
    "scheduler": {"type": "WarmupCosineLR", "params": {"warmup_num_steps": "auto"}},
    "zero_optimization": {"stage": 2, "reduce_bucket_size": "auto"},
}


def problems(folder: Path, values: Any, stage: int = 2, cluster: Cluster = CPU, **keys: Any) -> list[Problem]:
    """Of a run of the conformance recipe with the file `values`; `keys` of the strategy, or of train.*."""
    path = folder / "deepspeed.json"
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    own = {k: keys.pop(k) for k in ("offload_optimizer", "offload_parameters") if k in keys}
    more = {"offload_parameters": False} if stage == 3 else {}
    strategy = KINDS[stage](**ZERO | more | own | {"config": str(path)})
    settings = replace(make(str(folder / "run"), ranks=cluster.ranks, **keys), strategy=strategy)
    return check(settings, cluster)


def told(found: list[Problem]) -> str:
    return "\n".join(str(problem) for problem in found)


@pytest.mark.parametrize("values", [AGREES, AUTO, {}, {"tensorboard": {"enabled": False}}])
def test_a_file_that_agrees_is_taken(values: dict[str, Any], tmp_path: Path) -> None:
    assert problems(tmp_path, values) == []


@pytest.mark.parametrize(
    ("change", "key", "ours", "theirs"),
    [
        ({"train_batch_size": 24, "gradient_accumulation_steps": 6}, "train.global_batch", 12, "24"),
        ({"train_micro_batch_size_per_gpu": 3, "gradient_accumulation_steps": 2}, "train.micro_batch", 2, "3"),
        ({"gradient_clipping": 1.0}, "train.clip_norm", 0.5, "1.0"),
        ({"gradient_clipping": 0.0}, "train.clip_norm", 0.5, "0.0"),
        ({"bf16": {"enabled": True}}, "train.precision", "fp32", "bf16.enabled=true"),
        ({"torch_autocast": {"enabled": True, "dtype": "bfloat16"}}, "train.precision", "fp32", "torch_autocast"),
        ({"optimizer": {"type": "AdamW", "params": {"lr": 1e-2}}}, "optimizer.lr", 3e-3, "0.01"),
        ({"optimizer": {"type": "Adam", "params": {"betas": [0.9, 0.95]}}}, "optimizer.betas", (0.9, 0.99), "0.95"),
        ({"optimizer": {"type": "AdamW", "params": {"eps": 1e-6}}}, "optimizer.eps", 1e-8, "1e-06"),
        ({"optimizer": {"type": "AdamW", "params": {"weight_decay": 0}}}, "optimizer.weight_decay", 0.1, "=0"),
        ({"scheduler": {"type": "WarmupLR"}}, "schedule", "cosine", "WarmupLR"),
        ({"scheduler": {"params": {"total_num_steps": 99}}}, "train.steps", 20, "99"),
        ({"scheduler": {"params": {"warmup_num_steps": 5}}}, "schedule.warmup", 3, "5"),
        ({"zero_optimization": {"stage": 3}}, "strategy", "zero2", "stage=3"),
        ({"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}, "strategy.offload_optimizer", False, "cpu"),
    ],
)
def test_a_contradiction_is_refused_with_both_values(
    change: dict[str, Any], key: str, ours: object, theirs: str, tmp_path: Path
) -> None:
    (found,) = problems(tmp_path, AGREES | change)
    assert (found.key, found.value) == (key, ours)
    assert theirs in found.message
    assert str(tmp_path / "deepspeed.json") in found.message
    assert "change the file" in found.hint


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fp16": {"enabled": True}}, "fp16: trainkit has fp32 and bf16"),
        ({"amp": {"enabled": True}}, "amp: trainkit has"),
        ({"torch_autocast": {"enabled": True, "dtype": "float16"}}, "torch_autocast: trainkit has"),
        ({"optimizer": {"type": "Lamb"}}, "optimizer.type=Lamb"),
        ({"optimizer": {"type": "Adam", "params": {"adam_w_mode": False}}}, "adam_w_mode=false"),
        ({"scheduler": {"type": "OneCycle"}}, "scheduler.type=OneCycle"),
        ({"zero_optimization": {"offload_optimizer": {"device": "nvme"}}}, "device=nvme"),
        ({"zero_optimization": {"offload_param": {"device": "cpu"}}}, "offload_param is for zero3"),
        ({"zero_optimization": {"zero_quantized_weights": True}}, "zero_quantized_weights=true"),
        ({"zero_optimization": {"compute_grad_norm": False}}, "compute_grad_norm=false"),
        ({"curriculum_learning": {"enabled": True}}, "curriculum_learning is nothing that trainkit hands on"),
        ({"communication_data_type": "fp16"}, 'communication_data_type="fp16" is nothing'),
    ],
)
def test_what_no_recipe_can_agree_with_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    (found,) = problems(tmp_path, AGREES | change)
    assert found.key == "strategy.config"
    assert said in found.message


def test_everything_is_told_at_once(tmp_path: Path) -> None:
    wrong = {
        "train_batch_size": 7,
        "gradient_clipping": 9,
        "fp16": {"enabled": True},
        "zero_optimization": {"stage": 1},
    }
    assert [p.key for p in problems(tmp_path, wrong)] == [
        *("strategy", "strategy.config"),
        *("train.global_batch", "train.clip_norm"),
    ]


def test_two_of_the_batch_sizes_give_the_third(tmp_path: Path) -> None:
    def keys(**values: int) -> list[str]:
        return [p.key for p in problems(tmp_path, values)]

    assert keys(train_batch_size=12, gradient_accumulation_steps=3) == []
    assert keys(train_batch_size=12, gradient_accumulation_steps=2) == ["train.micro_batch"]
    assert keys(train_micro_batch_size_per_gpu=2, gradient_accumulation_steps=3) == []
    assert keys(train_micro_batch_size_per_gpu=2, gradient_accumulation_steps=2) == ["train.global_batch"]
    assert keys(gradient_accumulation_steps=3) == ["strategy.config"]
    all_at_once = {"train_batch_size": 12, "train_micro_batch_size_per_gpu": 6}
    assert problems(tmp_path, all_at_once, micro_batch=None) == []


def test_offloading_has_to_be_asked_for_in_both_places(tmp_path: Path) -> None:
    file = {"zero_optimization": {"offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}}
    assert problems(tmp_path, file, stage=3, offload_optimizer=True, offload_parameters=True) == []
    assert [p.key for p in problems(tmp_path, file, stage=3)] == [
        *("strategy.offload_optimizer", "strategy.offload_parameters")
    ]
    none = {"zero_optimization": {"offload_optimizer": {"device": "none"}}}
    assert [p.key for p in problems(tmp_path, none, offload_optimizer=True)] == ["strategy.offload_optimizer"]


def test_zero3_cannot_be_compiled(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, {}, stage=3, compile=True)
    assert (found.key, found.value) == ("train.compile", True)
    assert "set train.compile=false, or set strategy=zero2 or fsdp" in found.hint
    assert problems(tmp_path, {}, stage=2, compile=True) == []


@pytest.mark.parametrize(("text", "said"), [("{", "is no JSON"), ("[1]", "is no DeepSpeed configuration")])
def test_a_file_that_is_none_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (found,) = problems(tmp_path, text)
    assert found.key == "strategy.config"
    assert said in found.message


def test_a_file_that_is_not_there_is_refused() -> None:
    (found,) = Zero2(**ZERO | {"config": "nowhere.json"}).problems(CPU)
    assert str(found) == "strategy.config=nowhere.json: cannot be read: No such file or directory"


def test_deepspeed_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "deepspeed" else find(name))
    (found,) = Zero2(**ZERO).problems(CPU)
    assert (found.key, found.value) == ("strategy", "zero2")
    assert "pip install 'trainkit[deepspeed]'" in found.hint


def test_what_deepspeed_is_told(tmp_path: Path) -> None:
    path = tmp_path / "deepspeed.json"
    path.write_text(json.dumps(AGREES | {"zero_optimization": {"stage": 3, "offload_param": {"pin_memory": True}}}))
    config = load(str(path))[0].engine(Spread(3, offload_optimizer=False, offload_parameters=True), 0.5, "bf16")
    assert config == {
        "wall_clock_breakdown": False,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.5,
        "torch_autocast": {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []},
        "zero_optimization": {"stage": 3, "offload_param": {"pin_memory": True, "device": "cpu"}},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
