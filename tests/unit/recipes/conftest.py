"""One converted SmolLM2 for all tests of the session, in the user's own cache."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from recipes.llm_finetune import LlmFinetune, Lora

LORA = Lora(r=4, alpha=8.0, dropout=0.0, targets="all-linear")
FINETUNE = LlmFinetune(model="smollm2", data=None, lora=LORA, max_tokens=512, heldout=0.06, sample_prompt="Hello?")


@pytest.fixture(scope="session")
def finetune() -> LlmFinetune:
    FINETUNE.prepare(print)
    return FINETUNE


@pytest.fixture(scope="session")
def smollm2(finetune: LlmFinetune) -> nn.Module:
    torch.manual_seed(0)
    return finetune.build_model()
