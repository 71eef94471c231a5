"""The digits: their split, and that the file in scikit-learn is what scikit-learn loads."""

import torch

from recipes.image_classification import ImageClassification, read_digits

TASK = ImageClassification(width=8, dropout=0.0)


def test_the_images_are_those_that_scikit_learn_loads() -> None:
    from sklearn.datasets import load_digits

    images, labels = read_digits()
    expected = load_digits()
    assert torch.equal(images[:, 0] * 16, torch.from_numpy(expected.images).float())
    assert labels.tolist() == expected.target.tolist()


def test_a_fifth_is_held_out() -> None:
    data = TASK.build_data()
    assert (len(data.train), len(data.heldout or [])) == (1437, 360)


def test_metrics_are_sums_over_images() -> None:
    batch = TASK.build_data().train.fetch([0, 1, 2])
    perfect = torch.nn.functional.one_hot(batch.targets["label"], 10) * 100.0
    perfect[0] = perfect[0].roll(1)
    metrics = TASK.metrics(perfect, batch.targets)
    assert metrics["accuracy"] == 2
    assert batch.weight == 3
