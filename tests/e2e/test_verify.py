"""Two strategies compared by the real command: what is the same, where what differs begins, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.command import trainkit

RECIPE = ("recipe=image_classification", "recipe.dropout=0.0", "train.device=cpu")
LLAMA = ("recipe=llm_pretrain", "recipe.corpus=stdlib", "train.global_batch=4", "train.device=cpu")


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """What the command takes for the machine's temporary folder."""
    (tmp_path / "temporary").mkdir()
    return tmp_path / "temporary"


def verify(temporary: Path, *words: str, code: int, recipe: tuple[str, ...] = RECIPE) -> str:
    """What `verify WORDS` answers; it leaves nothing behind. (torch makes a folder for its compiler, where it runs.)"""
    process = trainkit(temporary.parent, "verify", *words, *recipe, TMPDIR=str(temporary))
    assert process.returncode == code, process.stdout + process.stderr
    assert list(temporary.parent.iterdir()) == [temporary]
    assert list(temporary.glob("*" if code == 2 else "trainkit*")) == []
    return process.stderr if code == 2 else process.stdout


def sizes(text: str) -> dict[str, float]:
    """The table: difference by name."""
    rows = [line.rsplit(maxsplit=6) for line in text.splitlines() if line.rstrip().endswith("allowed)")]
    return {name.strip(): float(size) for name, size, *_ in rows}


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_one_rank_and_two_train_the_same(temporary: Path, precision: str) -> None:
    text = verify(temporary, "local", "ddp@2", f"train.precision={precision}", code=0)
    assert "largest differences of 3 steps" in text
    assert text.endswith(f"local and ddp@2 train the same ({precision})\n")
    assert {"sample ids", "loss", "grad_norm"} < set(sizes(text))
    assert any(name.startswith("model.") for name in sizes(text))
    assert any(name.startswith("optimizer.") for name in sizes(text))


@pytest.mark.slow
@pytest.mark.drill
def test_weights_whose_gradient_is_only_rounding_do_not_count(temporary: Path) -> None:
    """Tensor parallel sums in another order. AdamW turns what is left of a gradient that cancels out into a step."""
    text = verify(temporary, "local", "tensor@2", code=0, recipe=LLAMA)
    assert text.endswith("local and tensor@2 train the same (fp32)\n")


@pytest.mark.slow
@pytest.mark.drill
def test_half_the_learning_rate_is_found_in_bf16_too(temporary: Path) -> None:
    text = verify(temporary, "local", "local:optimizer.lr=0.0015", "train.precision=bf16", code=1)
    assert "differ from step" in text
    assert max(size for name, size in sizes(text).items() if name.startswith("model.")) > 5e-2


def test_another_learning_rate_shows_in_the_first_weights(temporary: Path) -> None:
    """The loss and the gradients of step 1 come before its update, and are the same."""
    text = verify(temporary, "local", "local:optimizer.lr=0.002", code=1)
    assert "step 1, the first that differs" in text
    found = sizes(text)
    assert (found["sample ids"], found["loss"], found["grad_norm"]) == (0.0, 0.0, 0.0)
    moved = {name: size for name, size in found.items() if size}
    assert moved
    assert all(name.startswith("model.") and size > 1e-4 for name, size in moved.items())
    assert f"differ from step 1 on: {max(moved, key=moved.__getitem__)} by " in text


@pytest.mark.slow
@pytest.mark.drill
def test_a_schedule_that_falls_differently_shows_in_step_2(temporary: Path) -> None:
    """Without warm-up the cosine begins at its top, whatever its floor."""
    text = verify(temporary, "local", "local:schedule.floor=0.9", "schedule.warmup=0", code=1)
    assert "differ from step 2 on: model." in text
    assert sizes(text)["loss"] == 0.0


@pytest.mark.slow
def test_another_order_of_samples_is_named_before_what_follows_from_it(temporary: Path) -> None:
    text = verify(temporary, "local", "local:train.seed=1", "train.steps=1", code=1)
    assert "differ from step 1 on: sample ids by " in text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["ddp@3", "locl"], ["in A (ddp@3): does not divide by the 3", "in B (locl): there is no such strategy"]),
        (["local", "ddp@2", "train.stesp=3"], ["in A (local) and B (ddp@2): there is no such key"]),
        (["local", "ddp@2:bucket=1"], ["strategy.bucket=1: in B (ddp@2:bucket=1): there is no such key"]),
        (["local"], ["cannot use recipe=image_classification", "verify A B recipe=NAME"]),
    ],
    ids=["both wrong", "a word of both", "a key of one", "one side"],
)
def test_what_is_wrong_with_either_is_told_before_anything_starts(
    temporary: Path, words: list[str], told: list[str]
) -> None:
    text = verify(temporary, *words, code=2)
    assert "nothing was started" in text
    assert [line for line in told if line not in text] == []
