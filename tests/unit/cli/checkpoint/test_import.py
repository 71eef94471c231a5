"""`checkpoint import`: what is recognised, what is refused and why, and what the run then finds."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from tests.conformance.training import tensors
from tests.unit.checkpoint.samples import saved
from tests.unit.cli.test_main import said
from tests.unit.conftest import write
from trainkit.checkpoint.manifest import committed, read_manifest, read_trainer
from trainkit.cli.main import main

Capture = pytest.CaptureFixture[str]

RECIPE = """\
from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import nn

from trainkit import Batch, Data, Task


class Ones:
    def __len__(self):
        return 10

    def fetch(self, ids):
        return Batch({"input": torch.ones(len(ids), 3)}, {}, len(ids), len(ids))


@dataclass(frozen=True, kw_only=True)
class Mine(Task):
    tied: bool
    frozen: bool

    def build_model(self):
        return nn.Sequential(layers(self))

    def build_data(self):
        return Data(Ones())

    def loss(self, output, targets):
        return output.sum()


def layers(task):
    made = OrderedDict(first=nn.Linear(3, 3), norm=nn.BatchNorm1d(3), last=nn.Linear(3, 3, bias=False))
    if task.tied:
        made["last"].weight = made["first"].weight
    if task.frozen:
        nn.init.constant_(made["norm"].weight, 2.0)
        made["norm"].requires_grad_(False)
    return made
"""
YAML = """\
# @package _global_
# Mine, in one line.
recipe:
  _target_: recipes.mine.Mine
  tied: false
  frozen: false
train:
  steps: 9
  global_batch: 4
tracker:
  uri: null
"""


@pytest.fixture
def mine(project: Path) -> Path:
    write(project / "recipes/mine.py", RECIPE)
    write(project / "conf/recipe/mine.yaml", YAML)
    return project


def weights() -> dict[str, torch.Tensor]:
    made = {"first.weight": torch.arange(9.0).view(3, 3), "first.bias": torch.ones(3), "last.weight": torch.eye(3)}
    made |= {"norm.weight": torch.full((3,), 2.0), "norm.bias": torch.zeros(3)}
    made |= {"norm.running_mean": torch.full((3,), 0.5), "norm.running_var": torch.ones(3)}
    return made | {"norm.num_batches_tracked": torch.tensor(7)}


def brought(capsys: Capture, source: Any, *words: str, code: int = 0) -> str:
    """What importing `source` into the new run `run` says; nothing is there of it after a refusal."""
    text = said(capsys, "checkpoint", "import", str(source), "run", "recipe=mine", *words, code=code)
    assert code == 0 or not Path("run").exists()
    return text


def test_weights_alone_are_the_start_of_a_run(mine: Path, capsys: Capture) -> None:
    save_file(weights(), "some.safetensors")
    text = brought(capsys, "some.safetensors", "train.ema=0.9")
    assert text.endswith("to go on from it: python -m trainkit recipe=mine train.ema=0.9 run.dir=run\n")
    assert committed(mine / "run/checkpoints") == [0]
    found = tensors(mine / "run", 0)
    for name, tensor in weights().items():
        assert torch.equal(found[f"model.{name}"], tensor), name
    assert torch.equal(found["ema.first.weight"], weights()["first.weight"])
    assert not any(value.any() for name, value in found.items() if name.startswith("optimizer."))
    assert read_trainer(mine / "run/checkpoints/step_0")["progress"] == {
        "step": 0,
        "samples": 0,
        "best": None,
        "stale": 0,
    }
    about = read_manifest(mine / "run/checkpoints/step_0")["about"]
    assert about["strategy"] == "import from safetensors"
    assert about["fixed"]["recipe.tied"] is False
    assert yaml.safe_load((mine / "run/config.yaml").read_text())["train"]["ema"] == 0.9


def adamw(names: list[str] | None = None, groups: int = 1) -> dict[str, Any]:
    """A state as torch.optim.AdamW saves it; every moment tells its parameter by its number in the model."""
    trained = ["first.weight", "first.bias", "norm.weight", "norm.bias", "last.weight"]
    cut = [trained]
    if groups == 2:
        cut = [[n for n in trained if weights()[n].ndim >= 2], [n for n in trained if weights()[n].ndim < 2]]
    order = [name for group in cut for name in group]
    state = {
        i: {
            "step": torch.tensor(6.0),
            "exp_avg": torch.full_like(weights()[name], trained.index(name)),
            "exp_avg_sq": torch.full_like(weights()[name], 10.0 + trained.index(name)),
        }
        for i, name in enumerate(order)
    }
    at, listed = 0, []
    for group in cut:
        listed.append({"params": list(range(at, at + len(group)))} | ({"param_names": group} if names else {}))
        at += len(group)
    return {"state": state, "param_groups": listed}


@pytest.mark.parametrize("groups", [1, 2])
def test_moments_come_along_and_the_run_goes_on_where_the_source_was(groups: int, mine: Path, capsys: Capture) -> None:
    torch.save({"model": weights(), "optimizer": adamw(groups=groups)}, "some.pt")
    brought(capsys, "some.pt")
    found = tensors(mine / "run", 6)
    assert found["optimizer.first.bias.exp_avg"].tolist() == [1.0] * 3
    assert found["optimizer.last.weight.exp_avg_sq"].tolist() == [[14.0] * 3] * 3
    assert found["optimizer.norm.bias.step"].item() == 6
    # 10 samples in batches of 4: 3 steps per epoch, the last with 2 samples
    assert read_trainer(mine / "run/checkpoints/step_6")["progress"]["samples"] == 20


def test_a_run_that_would_have_nothing_left_to_do_is_not_made(mine: Path, capsys: Capture) -> None:
    torch.save({"model": weights(), "optimizer": adamw(), "step": 9}, "some.pt")
    text = brought(capsys, "some.pt", code=2)
    assert "train.steps=9: the run would be at its end: it goes on at step 9, and ends after 9" in text
    brought(capsys, "some.pt", "train.steps=10")
    assert committed(mine / "run/checkpoints") == [9]


def test_names_in_the_optimizers_groups_are_believed(mine: Path, capsys: Capture) -> None:
    state = adamw(names=["yes"])
    state["param_groups"][0]["param_names"].reverse()
    state["state"] = dict(enumerate(reversed(state["state"].values())))
    torch.save({"model": weights(), "optimizer": state}, "some.pt")
    brought(capsys, "some.pt", "--step", "2")
    assert tensors(mine / "run", 2)["optimizer.first.bias.exp_avg"].tolist() == [1.0] * 3


def test_weights_only_leaves_the_moments_behind(mine: Path, capsys: Capture) -> None:
    state = adamw()
    state["param_groups"][0]["params"].pop()
    torch.save({"model": weights(), "optimizer": state, "step": 8}, "some.pt")
    assert "cannot be told apart" in brought(capsys, "some.pt", code=2)
    brought(capsys, "some.pt", "--weights-only")
    assert not tensors(mine / "run", 0)["optimizer.first.bias.exp_avg"].any()


def test_another_optimizers_moments_are_refused(mine: Path, capsys: Capture) -> None:
    state = {i: {"momentum_buffer": moments["exp_avg"]} for i, moments in adamw()["state"].items()}
    torch.save({"model": weights(), "optimizer": adamw() | {"state": state}}, "some.pt")
    text = brought(capsys, "some.pt", code=2)
    assert "its optimizer keeps momentum_buffer of first.weight, the recipe's exp_avg, exp_avg_sq, step" in text


def test_names_that_do_not_match_are_listed_with_the_nearest(mine: Path, capsys: Capture) -> None:
    renamed = {name.replace("first", "frist"): value for name, value in weights().items() if name != "norm.bias"}
    save_file(renamed, "some.safetensors")
    text = brought(capsys, "some.safetensors", code=2)
    assert "missing: first.weight (nearest: frist.weight)" in text
    assert "missing: norm.bias" in text
    assert "not of the model: frist.bias (nearest: first.bias)" in text


def test_wrappers_names_are_understood(mine: Path, capsys: Capture) -> None:
    torch.save(OrderedDict((f"module._orig_mod.{name}", value) for name, value in weights().items()), "some.pt")
    brought(capsys, "some.pt")
    assert torch.equal(tensors(mine / "run", 0)["model.last.weight"], torch.eye(3))


def test_other_shapes_and_kinds_are_all_named(mine: Path, capsys: Capture) -> None:
    wrong = {"first.bias": torch.ones(4), "norm.num_batches_tracked": torch.tensor(1.0)}
    save_file(weights() | wrong, "some.safetensors")
    text = brought(capsys, "some.safetensors", code=2)
    assert "first.bias: float32 [4] there, float32 [3] in the model" in text
    assert "norm.num_batches_tracked: float32 [] there, int64 [] in the model" in text


def test_half_precision_becomes_the_models_own(mine: Path, capsys: Capture) -> None:
    half = {name: value.bfloat16() if value.is_floating_point() else value for name, value in weights().items()}
    save_file(half, "some.safetensors")
    brought(capsys, "some.safetensors")
    assert tensors(mine / "run", 0)["model.first.weight"].dtype == torch.float32


@pytest.mark.parametrize("both", [False, True])
def test_a_tied_weight_comes_under_any_of_its_names(both: bool, mine: Path, capsys: Capture) -> None:
    made = weights() | {"last.weight": torch.ones(3, 3), "first.weight": torch.ones(3, 3)}
    if not both:
        del made["first.weight"]
    save_file(made, "some.safetensors")
    brought(capsys, "some.safetensors", "recipe.tied=true")
    found = tensors(mine / "run", 0)
    assert torch.equal(found["model.first.weight"], torch.ones(3, 3))
    assert "model.last.weight" not in found


def test_a_tied_weight_with_two_values_is_refused(mine: Path, capsys: Capture) -> None:
    save_file(weights(), "some.safetensors")
    assert "are one parameter in the model, and differ here" in brought(
        capsys, "some.safetensors", "recipe.tied=true", code=2
    )


def test_frozen_weights_must_be_the_recipes_own(mine: Path, capsys: Capture) -> None:
    save_file(weights() | {"norm.bias": torch.ones(3)}, "some.safetensors")
    text = brought(capsys, "some.safetensors", "recipe.frozen=true", code=2)
    assert "norm.bias is frozen in the recipe, which makes another value" in text
    assert "norm.weight" not in text
    save_file(weights(), "some.safetensors")
    brought(capsys, "some.safetensors", "recipe.frozen=true")
    assert "model.norm.weight" not in tensors(mine / "run", 0)


# ----------------------------------------------------------------------------------------- the source


def test_what_is_none_of_the_formats_is_told_what_was_looked_for_and_found(mine: Path, capsys: Capture) -> None:
    write(mine / "what/notes.txt", "hello")
    text = brought(capsys, "what", code=2)
    for name in ("deepspeed", "accelerate", "hf", "safetensors", "torch"):
        assert f"    {name}: a " in text
    assert "found: a folder with notes.txt" in text
    assert "found: a file of 5 bytes that begins with b'hello'" in brought(capsys, "what/notes.txt", code=2)
    assert "there is no such file or folder" in brought(capsys, "nowhere", code=2)


def test_a_format_that_was_set_must_be_right(mine: Path, capsys: Capture) -> None:
    save_file(weights(), "some.safetensors")
    text = brought(capsys, "some.safetensors", "--format", "deepspeed", code=2)
    assert "deepspeed: a folder with" in text
    assert "safetensors: " not in text
    assert "should be deepspeed | accelerate | hf" in brought(capsys, "some.safetensors", "--format=x", code=2)


def test_a_broken_file_is_told_in_words(mine: Path, capsys: Capture) -> None:
    torch.save({"model": weights(), "other": Path("x")}, "some.pt")
    assert "cannot be read as torch: " in brought(capsys, "some.pt", code=2)


def test_trainkits_own_needs_no_import(mine: Path, capsys: Capture) -> None:
    saved(mine / "checkpoints", 1)
    assert "is a checkpoint of trainkit's own" in brought(capsys, "checkpoints/step_1", code=2)


def test_a_run_that_has_checkpoints_is_left_alone(mine: Path, capsys: Capture) -> None:
    save_file(weights(), "some.safetensors")
    brought(capsys, "some.safetensors")
    words = ("checkpoint", "import", "some.safetensors", "run", "recipe=mine")
    assert "has checkpoints up to step 0" in said(capsys, *words, code=2)


def test_the_words_of_the_run_are_checked_first(mine: Path, capsys: Capture) -> None:
    save_file(weights(), "some.safetensors")
    assert "train.stesp=1: there is no such key" in brought(capsys, "some.safetensors", "train.stesp=1", code=2)
    assert "--step=x: should be a whole number" in brought(capsys, "some.safetensors", "--step", "x", code=2)
    assert "no recipe chosen" in said(capsys, "checkpoint", "import", "some.safetensors", "run", code=2)


# --------------------------------------------------------------------------------------- transformers

LLAMA = """
    def build_model(self):
        from transformers import LlamaConfig, LlamaForCausalLM

        sizes = {"vocab_size": 17, "hidden_size": 8, "intermediate_size": 12, "max_position_embeddings": 16}
        return LlamaForCausalLM(
            LlamaConfig(**sizes, num_hidden_layers=2, num_attention_heads=2, tie_word_embeddings=self.tied)
        )

    def export(self, model, folder):
        model.save_pretrained(folder)
"""


@pytest.mark.parametrize("tied", [False, True])
def test_a_model_of_transformers_goes_in_and_out_again(tied: bool, mine: Path, capsys: Capture) -> None:
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    begin, end = RECIPE.index("    def build_model"), RECIPE.index("    def build_data")
    write(mine / "recipes/mine.py", RECIPE[:begin] + LLAMA + "\n" + RECIPE[end:])
    sizes = {"vocab_size": 17, "hidden_size": 8, "intermediate_size": 12, "max_position_embeddings": 16}
    config = LlamaConfig(**sizes, num_hidden_layers=2, num_attention_heads=2, tie_word_embeddings=tied)
    torch.manual_seed(5)
    model: Any = LlamaForCausalLM(config)
    model.save_pretrained("theirs", max_shard_size=5000)
    assert len(json.loads((mine / "theirs/model.safetensors.index.json").read_text())["weight_map"]) > 1
    capsys.readouterr()  # its progress bars
    brought(capsys, "theirs", f"recipe.tied={tied}".lower())
    assert main(["checkpoint", "export", "run", "ours", "--format", "hf"]) == 0
    ours: Any = AutoModelForCausalLM.from_pretrained("ours")
    ids = torch.arange(12)[None]
    assert torch.equal(ours(ids).logits, model.eval()(ids).logits)
