"""A mesh of 4,096 ranks and a Llama of 70 billion parameters: every rank's figures, held against closed formulas.

The sizes divide everything evenly, so that the formulas need no rounding, and all ranks of a stage are alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import prod

import pytest

from recipes.llm_pretrain import LlmPretrain
from tests.conformance.cells import MESH
from tests.conformance.settings import make
from trainkit.simulation.simulate import simulate
from trainkit.simulation.values import Collective, Rank
from trainkit.strategy.mesh import Mesh

pytestmark = [pytest.mark.slow, pytest.mark.drill]

STAGES, REPLICAS, SHARD, TENSOR = 4, 4, 32, 8
RANKS = STAGES * REPLICAS * SHARD * TENSOR
MICRO_BATCHES, TOKENS = 4, 4096  # of a rank per step; of a micro-batch
WIDTH, KEYS, INNER, VOCABULARY, LAYERS = 8192, 1024, 28672, 32000, 80 // STAGES  # the last: of a stage
LAST = STAGES - 1

MATRICES = (
    2 * WIDTH * WIDTH + 2 * WIDTH * KEYS + 3 * WIDTH * INNER
)  # of a layer: q and out, k and v, gated feed-forward
BYTES = 4
HIDDEN = TOKENS * WIDTH * BYTES  # what goes from layer to layer


def matrices(stage: int) -> int:
    """Elements that the tensor axis divides: of the layers, and the embedding or the head."""
    return LAYERS * MATRICES + (VOCABULARY * WIDTH if stage in (0, LAST) else 0)


def norms(stage: int) -> int:
    """Elements that every rank of the tensor axis has."""
    return LAYERS * 2 * WIDTH + (WIDTH if stage == LAST else 0)


def parameters(stage: int) -> int:
    """How many tensors the stage has: of a layer 7 matrices and 2 norms."""
    return LAYERS * 9 + {0: 1, LAST: 2}.get(stage, 0)


MODEL = sum(matrices(stage) + norms(stage) for stage in range(STAGES))


@pytest.fixture(scope="module")
def ranks() -> Sequence[Rank]:
    """All 4,096."""
    axes = {"pipeline": STAGES, "replicas": REPLICAS, "shard": SHARD, "tensor": TENSOR}
    own = {"width": None, "layers": None, "heads": None, "kv_heads": None}
    other = {"corpus": "", "heldout": 0.1, "sample_prompt": None}
    recipe = LlmPretrain(size="70b", vocab=VOCABULARY, seq_len=TOKENS, **own, **other)  # type: ignore[arg-type]
    train = {"global_batch": REPLICAS * SHARD * MICRO_BATCHES, "micro_batch": 1, "ema": 0.999}
    settings = replace(make("", task=recipe, **train), strategy=Mesh(**MESH | axes))
    simulation = simulate(settings, RANKS)
    assert simulation.parameters == MODEL == 68_976_648_192
    return [simulation.rank(number) for number in range(RANKS)]


def test_there_is_a_rank_in_every_place(ranks: Sequence[Rank]) -> None:
    assert len({tuple(rank.coordinates.items()) for rank in ranks}) == RANKS
    assert Counter(rank.coordinates["pipeline"] for rank in ranks) == dict.fromkeys(range(STAGES), RANKS // STAGES)


@pytest.mark.parametrize("replica", range(REPLICAS))
def test_the_parts_of_a_replica_are_the_model(ranks: Sequence[Rank], replica: int) -> None:
    """Norms are on every rank of the tensor axis, all else is on one rank only."""
    found: Counter[str] = Counter()
    for rank in ranks:
        if rank.coordinates["replicas"] == replica:
            found.update({name: prod(shape) for name, shape in rank.shapes.items()})
    assert len(found) == sum(parameters(stage) for stage in range(STAGES))
    assert sum(count // (TENSOR if "norm" in name else 1) for name, count in found.items()) == MODEL
    layer = "model.layers.79"
    assert found["model.embed_tokens.weight"] == found["lm_head.weight"] == VOCABULARY * WIDTH
    assert found[f"{layer}.self_attn.k_proj.weight"] == WIDTH * KEYS
    assert found[f"{layer}.mlp.down_proj.weight"] == WIDTH * INNER
    assert found["model.norm.weight"] == TENSOR * WIDTH


def test_shapes(ranks: Sequence[Rank]) -> None:
    """FSDP divides the first dimension; before it the tensor axis the first or, of what sums up, the second."""
    for rank in ranks:
        layer = f"model.layers.{rank.coordinates['pipeline'] * LAYERS}"
        assert rank.shapes[f"{layer}.self_attn.k_proj.weight"] == (KEYS // TENSOR // SHARD, WIDTH)
        assert rank.shapes[f"{layer}.mlp.down_proj.weight"] == (WIDTH // SHARD, INNER // TENSOR)
        assert rank.shapes[f"{layer}.input_layernorm.weight"] == (WIDTH // SHARD,)


def test_memory_that_follows_from_the_weights(ranks: Sequence[Rank]) -> None:
    """Adam has two moments, and a step's number per tensor. Between micro-batches FSDP does not divide gradients, nor
    does the tensor axis where they come whole: the embedding's."""
    for rank in ranks:
        stage, memory = rank.coordinates["pipeline"], rank.memory
        part = BYTES * (matrices(stage) // TENSOR + norms(stage)) // SHARD
        assert memory.weights == memory.gradients == memory.average == part
        assert memory.moments == 2 * part + BYTES * parameters(stage)
        late = VOCABULARY * WIDTH if stage == 0 else 0
        assert memory.accumulated == BYTES * ((matrices(stage) - late) // TENSOR + late + norms(stage))
        assert memory.copies == 0  # in fp32


def test_activations(ranks: Sequence[Rank]) -> None:
    """1F1B keeps as many micro-batches as there are stages from here on. Per token and layer, h, k and f channels wide:
    each of the two norms of transformers keeps its input, that divided by its size, and its output (6 h); divided by
    the tensor axis, queries and attention output (2 h), keys and values (2 k), and the gated feed-forward part (4 f).
    After the layers a norm and logits. Left out is what is small: sizes, sines, sums of exponentials."""
    layer = 6 * WIDTH + (2 * WIDTH + 2 * KEYS + 4 * INNER) // TENSOR
    after = 3 * WIDTH + VOCABULARY
    for rank in ranks:
        stage = rank.coordinates["pipeline"]
        elements = (STAGES - stage) * LAYERS * layer + (after if stage == LAST else 0)
        assert rank.memory.activations == pytest.approx(BYTES * TOKENS * elements, rel=1e-3)


def expected(stage: int) -> set[Collective]:
    """Per step. A scalar along each axis is for the gradient's norm, and torch's schedules exchange a flag with each
    neighbour before the first micro-batch."""
    blocks, whole = (
        BYTES * LAYERS * (MATRICES // TENSOR + 2 * WIDTH),
        BYTES * (matrices(stage) // TENSOR + norms(stage)),
    )
    groups = LAYERS + (stage in (0, LAST))  # that FSDP gathers at once
    neighbours = 1 if stage in (0, LAST) else 2
    # A layer sums its two outputs in the forward; in the backward the gradients of its five inputs: q, k, v, gate, up.
    sums = MICRO_BATCHES * (7 * LAYERS + (stage in (0, LAST)))
    sent, small = neighbours * MICRO_BATCHES, BYTES
    found = {
        # A forward lets the blocks' weights go, a backward leaves them gathered for what comes next. With w forwards
        # before the first backward of m: all once, blocks w - 1 times more, and m - w + 1 times behind a forward.
        Collective(
            kind="all_gather",
            axis="shard",
            ranks=SHARD,
            count=groups + LAYERS * MICRO_BATCHES,
            payload=whole + blocks * MICRO_BATCHES,
        ),
        Collective(kind="reduce_scatter", axis="shard", ranks=SHARD, count=groups, payload=whole),
        Collective(kind="all_reduce", axis="replicas", ranks=REPLICAS, count=groups, payload=whole // SHARD),
        Collective(kind="all_reduce", axis="tensor", ranks=TENSOR, count=sums + 1, payload=sums * HIDDEN + small),
        Collective(kind="all_reduce", axis="shard", ranks=SHARD, count=1, payload=small),
        Collective(kind="all_reduce", axis="pipeline", ranks=STAGES, count=1, payload=small),
        *(
            Collective(
                kind=kind,
                axis="pipeline",
                ranks=STAGES,
                count=sent + neighbours,
                payload=sent * HIDDEN + neighbours * small,
            )
            for kind in ("send", "receive")
        ),
    }
    if stage == LAST:
        logits = MICRO_BATCHES * TOKENS * VOCABULARY * BYTES
        found.add(Collective(kind="all_gather", axis="tensor", ranks=TENSOR, count=MICRO_BATCHES, payload=logits))
    return found


def test_collectives(ranks: Sequence[Rank]) -> None:
    for rank in ranks:
        assert {*rank.collectives} == expected(rank.coordinates["pipeline"])
