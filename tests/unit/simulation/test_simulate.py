"""What is not simulated is refused, with the reason."""

from __future__ import annotations

import pytest

from tests.conformance.settings import make
from trainkit.errors import ConfigError
from trainkit.simulation.simulate import share, simulate


@pytest.mark.parametrize("name", ["horovod", "accelerate"])
def test_what_a_framework_does_by_itself_is_not_guessed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = make("", name)
    monkeypatch.setattr(type(settings.strategy), "problems", lambda self, cluster: ())  # whether it is installed or not
    with pytest.raises(ConfigError, match=f"(?s){name}.*is not simulated"):
        simulate(settings, 2)


def test_ranks_have_to_fit_the_mesh() -> None:
    with pytest.raises(ConfigError, match="multiple of 2"):
        simulate(make("", "mesh-replicas-shard"), 3)


def test_the_reader_with_the_most_samples_is_simulated() -> None:
    batches = share(make("", "fsdp", global_batch=9, micro_batch=2), 4)  # 2, 2, 2 and 3
    assert sum(len(batch.targets["labels"]) for batch in batches) == 3
