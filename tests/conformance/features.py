"""What works under which strategy: not written down, but asked of the code that checks a run before it starts.

`python -m trainkit validate` says the same of the words that a cell is asked with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.conformance import cells
from tests.conformance.cells import strategy_of
from trainkit.cli.run import prepare
from trainkit.errors import ConfigError, Problem

CONF = Path(__file__).parents[2] / "conf/strategy"
STRATEGIES = tuple(dict.fromkeys(map(strategy_of, cells.STRATEGIES)))
"""The rows."""

FEATURES: dict[str, tuple[str, ...]] = {
    "bf16": ("train.precision=bf16",),
    "accumulation": ("train.micro_batch=1",),
    "checkpointing": ("train.activation_checkpointing=true",),
    "compile": ("train.compile=true",),
    "EMA": ("train.ema=0.9",),
    "clipping": ("train.clip_norm=0.5",),
    "evaluation": ("train.eval_every=3",),
    "LoRA": ("recipe.lora.r=8",),
    "CPU offload": ("strategy.cpu_offload=true",),
    "other rank count": (),  # that of the checkpoint that a run goes on from
}
"""The columns, and the words that ask for them. Of a strategy that has keys of its own for offloading, those."""

VARIANTS: dict[str, tuple[str, ...]] = {
    "ddp": ("strategy.bucket_cap_mb=0.5",),
    "pipeline": ("strategy.schedule=zero_bubble",),
    "mesh": ("strategy.pipeline=3", "strategy.schedule=zero_bubble"),
}
"""Options of a strategy with which it refuses more than without."""


@dataclass(frozen=True)
class Refusal:
    """What the check says of a feature; `words`: the options of the strategy with which it does, none: with any."""

    problem: Problem
    words: tuple[str, ...] = ()


def words_of(strategy: str, feature: str) -> tuple[str, ...]:
    """What asks for `feature` under `strategy`."""
    own = [key for key in yaml.safe_load((CONF / f"{strategy}.yaml").read_text()) if "offload" in key]
    return tuple(f"strategy.{key}=true" for key in own) if own and feature == "CPU offload" else FEATURES[feature]


def command(strategy: str, options: Sequence[str] = ()) -> list[str]:
    """The words of a run with every feature on. Three ranks, because SmolLM2 has nine heads."""
    ranks = 1 if strategy == "local" else 3
    run = ["recipe=llm_finetune", "run.dir=/nowhere/yet", "train.device=cpu", "train.global_batch=12", "tracker=none"]
    asked = [word for feature in FEATURES for word in words_of(strategy, feature)]
    return [*run, f"strategy={strategy}", f"launcher.ranks={ranks}", *options, *asked]


def problems(strategy: str, options: Sequence[str] = ()) -> dict[str, Problem]:
    """What the check says to all features together, each under its name. Raises LookupError where it says something
    that is about none of them."""
    try:
        prepare(command(strategy, options))
    except ConfigError as error:
        return {_about(strategy, problem): problem for problem in error.problems}
    return {}


def _about(strategy: str, problem: Problem) -> str:
    for feature in FEATURES:
        if any(word.startswith(f"{problem.key}=") for word in words_of(strategy, feature)):
            return feature
    raise LookupError(f"strategy={strategy}: {problem}")


def table() -> dict[str, dict[str, Refusal]]:
    """Per strategy the features that it refuses; what is not in here works."""
    found: dict[str, dict[str, Refusal]] = {}
    for strategy in STRATEGIES:
        always = {feature: Refusal(problem) for feature, problem in problems(strategy).items()}
        options = VARIANTS.get(strategy, ())
        sometimes = problems(strategy, options) if options else {}
        found[strategy] = {f: Refusal(p, options) for f, p in sometimes.items()} | always
    return found


def render(refused: dict[str, dict[str, Refusal]]) -> str:
    """The table in Markdown, each reason once below it."""
    notes: list[str] = []
    rows = [[f"`{strategy}`", *_cells(strategy, refused[strategy], notes)] for strategy in refused]
    lines = [["strategy", *FEATURES], ["---"] * (1 + len(FEATURES)), *rows]
    drawn = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([*drawn, "", *(f"{number}. {note}" for number, note in enumerate(notes, 1))])


def _cells(strategy: str, refused: dict[str, Refusal], notes: list[str]) -> Iterator[str]:
    for feature in FEATURES:
        if feature not in refused:
            yield "yes"
            continue
        note = _note(refused[feature])
        if note not in notes:
            notes.append(note)
        yield f"{'yes, but' if refused[feature].words else 'no'} ({notes.index(note) + 1})"


def _note(refusal: Refusal) -> str:
    problem, words = refusal.problem, refusal.words
    option = f" with `{words[-1]}`" if words else ""
    return f"`{problem.key}`{option}: {problem.message}; {problem.hint}."
