"""What a file of `accelerate config` may say, and what is made of it before the start."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conformance.settings import make
from trainkit.config import check
from trainkit.errors import Problem
from trainkit.protocols import Cluster
from trainkit.strategy.accelerate import Accelerate

CPU = Cluster(hosts=1, ranks=2, gpus=0, cores=2)
GPU = replace(CPU, gpus=2)
FILE: dict[str, Any] = {
    "compute_environment": "LOCAL_MACHINE",
    "debug": False,
    "distributed_type": "MULTI_CPU",
    "downcast_bf16": "no",
    "enable_cpu_affinity": False,
    "machine_rank": 0,
    "main_training_function": "main",
    "mixed_precision": "no",
    "num_machines": 1,
    "num_processes": 2,
    "rdzv_backend": "static",
    "same_network": True,
    "tpu_env": [],
    "tpu_use_cluster": False,
    "tpu_use_sudo": False,
    "use_cpu": True,
}


def strategy(folder: Path, **changes: Any) -> Accelerate:
    path = folder / "accelerate.yaml"
    path.write_text(yaml.safe_dump(FILE | changes))
    return Accelerate(config=str(path), timeout_s=60)


def problems(strategy: Accelerate, folder: Path, cluster: Cluster = CPU, **train: Any) -> list[Problem]:
    settings = replace(make(str(folder / "run"), ranks=cluster.ranks, **train), strategy=strategy)
    return check(settings, cluster)


def test_a_file_that_agrees_is_taken(tmp_path: Path) -> None:
    assert problems(strategy(tmp_path), tmp_path) == []
    gpus = strategy(tmp_path, distributed_type="MULTI_GPU", use_cpu=False, gpu_ids="all", mixed_precision="bf16")
    assert problems(gpus, tmp_path, GPU, precision="bf16", device="auto") == []


def test_the_file_that_accelerate_itself_writes_is_taken(tmp_path: Path) -> None:
    from accelerate.commands.config.config_args import ClusterConfig

    path = tmp_path / "theirs.yaml"
    theirs = ClusterConfig(
        compute_environment="LOCAL_MACHINE",
        distributed_type="MULTI_CPU",
        mixed_precision="no",
        use_cpu=True,
        debug=False,
        num_processes=2,
    )
    theirs.to_yaml_file(str(path))
    assert problems(Accelerate(config=str(path), timeout_s=60), tmp_path) == []
    theirs.to_json_file(str(tmp_path / "theirs.json"))
    assert json.loads((tmp_path / "theirs.json").read_text())
    assert problems(Accelerate(config=str(tmp_path / "theirs.json"), timeout_s=60), tmp_path) == []


def test_auto_means_what_the_file_says(tmp_path: Path) -> None:
    assert strategy(tmp_path, num_processes=6).ranks(GPU) == 6
    assert strategy(tmp_path, num_processes=6, distributed_type="NO").ranks(GPU) == 1
    assert strategy(tmp_path, num_processes=-1).ranks(GPU) == 2
    assert Accelerate(config=None, timeout_s=60).ranks(GPU) == 2


@pytest.mark.parametrize(
    ("changes", "key", "ours", "theirs"),
    [
        ({"num_processes": 4}, "launcher.ranks", 2, "num_processes=4"),
        ({"distributed_type": "NO"}, "launcher.ranks", 2, "distributed_type=NO"),
        ({"mixed_precision": "bf16"}, "train.precision", "fp32", "mixed_precision=bf16"),
        ({"dynamo_config": {"dynamo_backend": "INDUCTOR"}}, "train.compile", False, "dynamo_backend=INDUCTOR"),
    ],
)
def test_what_contradicts_the_run_is_named_with_both_values(
    changes: dict[str, Any], key: str, ours: object, theirs: str, tmp_path: Path
) -> None:
    (problem,) = problems(strategy(tmp_path, **changes), tmp_path)
    assert (problem.key, problem.value) == (key, ours)
    assert theirs in problem.message
    assert "accelerate.yaml" in problem.message


def test_a_file_for_cpus_contradicts_a_run_on_gpus(tmp_path: Path) -> None:
    (problem,) = problems(strategy(tmp_path), tmp_path, GPU, device="auto")
    assert (problem.key, problem.value, problem.hint) == (
        "train.device",
        "auto",
        "set train.device=cpu, or change the file",
    )


@pytest.mark.parametrize(
    ("changes", "named", "hint"),
    [
        ({"distributed_type": "FSDP", "fsdp_config": {"fsdp_version": 2}}, "distributed_type=FSDP", "strategy=fsdp"),
        ({"distributed_type": "DEEPSPEED"}, "distributed_type=DEEPSPEED", "zero1, zero2 or zero3"),
        ({"distributed_type": "XLA"}, "distributed_type=XLA", ""),
        ({"distributed_type": "MULTI_GPU", "use_cpu": False}, "there is no GPU", "MULTI_CPU"),
        ({"parallelism_config": {"tp_size": 2}}, "parallelism_config", "strategy=mesh"),
        ({"fp8_config": {"backend": "TE"}}, "fp8_config", ""),
        ({"mixed_precision": "fp16"}, "mixed_precision=fp16", "no or bf16"),
        ({"gradient_accumulation_steps": 4}, "gradient_accumulation_steps=4", "train.micro_batch"),
        ({"num_machines": 2}, "num_machines=2", "launcher"),
        ({"gpu_ids": "0,1"}, "gpu_ids=0,1", "CUDA_VISIBLE_DEVICES=0,1"),
        ({"compute_environment": "AMAZON_SAGEMAKER"}, "compute_environment=AMAZON_SAGEMAKER", ""),
        ({"dynamo_config": {"dynamo_backend": "NO", "dynamo_mode": "max-autotune"}}, "dynamo_mode=max-autotune", ""),
        ({"dynamo_config": {"dynamo_backend": "EAGER"}}, "dynamo_backend=EAGER", "INDUCTOR"),
        ({"zzz": 1}, "zzz", ""),
    ],
)
def test_what_trainkit_cannot_do_with_it_is_refused_by_name(
    changes: dict[str, Any], named: str, hint: str, tmp_path: Path
) -> None:
    (problem,) = problems(strategy(tmp_path, **changes), tmp_path)
    assert problem.key == "strategy.config"
    assert named in problem.message
    assert hint in problem.hint


def test_everything_is_reported_at_once(tmp_path: Path) -> None:
    wrong = strategy(tmp_path, num_processes=3, mixed_precision="fp16", zzz=1)
    assert {p.key for p in problems(wrong, tmp_path)} == {"launcher.ranks", "strategy.config"}
    assert len(problems(wrong, tmp_path)) == 3


@pytest.mark.parametrize(("text", "said"), [("[1]", "no accelerate config"), ("a: [", "no YAML"), (None, "No such")])
def test_a_file_that_cannot_be_read_is_a_problem(text: str | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    if text is not None:
        path.write_text(text)
    (problem,) = problems(Accelerate(config=str(path), timeout_s=60), tmp_path)
    assert (problem.key, problem.value) == ("strategy.config", str(path))
    assert said in problem.message


def test_accelerate_that_is_not_installed_is_a_problem_that_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    none = Accelerate(config=None, timeout_s=60)
    assert list(none.problems(CPU)) == []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (problem,) = none.problems(CPU)
    assert "pip install 'trainkit[accelerate]'" in problem.hint
