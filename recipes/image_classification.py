"""Handwritten digits (scikit-learn, 1797 images of 8x8 pixels) and a small convolutional network."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt, Lt

from trainkit.errors import Problem
from trainkit.protocols import Batch, Data, Task

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class ImageClassification(Task):
    """Classify digits. Every fifth image is held out; `metrics` adds the accuracy."""

    width: Annotated[int, Gt(0)]
    dropout: Annotated[float, Ge(0), Lt(1)]

    def problems(self) -> Sequence[Problem]:
        if importlib.util.find_spec("sklearn") is None:
            return [Problem("recipe", "image_classification", "needs scikit-learn", "pip install 'trainkit[vision]'")]
        return ()

    def build_model(self) -> nn.Module:
        from torch import nn

        w = self.width
        return nn.Sequential(
            nn.Conv2d(1, w, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(w, 2 * w, 3, padding=1, stride=2),
            nn.GELU(),
            nn.Flatten(),
            nn.Dropout(self.dropout),
            nn.Linear(2 * w * 16, 10),
        )

    def build_data(self) -> Data:
        images, labels = read_digits()
        held = images.new_zeros(len(images)).bool()
        held[::5] = True
        return Data(Images(images[~held], labels[~held]), Images(images[held], labels[held]))

    def loss(self, output: Any, targets: Mapping[str, Tensor]) -> Tensor:
        from torch.nn.functional import cross_entropy

        return cross_entropy(output, targets["label"], reduction="sum")

    def metrics(self, output: Any, targets: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        correct = (output.argmax(-1) == targets["label"]).sum()
        return {"loss": self.loss(output, targets), "accuracy": correct}


class Images:
    """Pixels [n, 1, 8, 8] in [0, 1] and labels [n]."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def fetch(self, ids: Sequence[int]) -> Batch:
        rows = list(ids)
        return Batch({"input": self.images[rows]}, {"label": self.labels[rows]}, len(rows), len(rows))


def read_digits() -> tuple[Tensor, Tensor]:
    """The data file inside scikit-learn, read without importing scikit-learn, which takes longer than training."""
    import numpy as np
    import torch

    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("scikit-learn is not installed: pip install 'trainkit[vision]'")
    table = np.loadtxt(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    pixels = torch.from_numpy(table[:, :-1]).float() / 16
    return pixels.reshape(-1, 1, 8, 8), torch.from_numpy(table[:, -1]).long()
