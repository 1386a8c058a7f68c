"""Measures how well a linear classifier tells the classes of held-out images apart: detectable noise scores high."""

from __future__ import annotations

import torch

MOST_IMAGES = 2500
"""Images that are used; of a larger set, a random draw from a fixed seed."""
TRAINING_SHARE = 0.8
REGULARISATION = 0.01
"""Weight of the ridge penalty, relative to the mean squared norm of an image."""


def measure_separability(clean: torch.Tensor, released: torch.Tensor, labels: torch.Tensor) -> dict[str, float | None]:
    """Measure linear separability of the noise and of the released images, 8-bit images (n, c, h, w), labels (n,).

    Each is the accuracy, in [0, 1], of ridge regression on one-hot labels, fitted to four fifths of at most
    `MOST_IMAGES` images and tested on the rest; None for fewer than ten images. After the detectors of arXiv
    2312.08898 (AAAI 2024), with a closed form in place of training.
    """
    count = len(labels)
    if count < 10:
        return {"separability_noise": None, "separability_released": None}
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:MOST_IMAGES]
    after, before = (images.cpu()[order].double().flatten(1) / 255 for images in (released, clean))
    targets = labels.cpu()[order]
    return {
        "separability_noise": _held_out_accuracy(after - before, targets),
        "separability_released": _held_out_accuracy(after, targets),
    }


def _held_out_accuracy(values: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the accuracy on the last fifth of values (n, d), of ridge regression on the others."""
    size = round(TRAINING_SHARE * len(labels))
    values = values - values[:size].mean(0)
    training, test = values[:size], values[size:]
    targets = torch.nn.functional.one_hot(labels[:size], int(labels.max()) + 1).double()
    products = training @ training.T  # the dual form: n x n, however large the images are
    penalty = REGULARISATION * float(products.diagonal().mean()) or 1.0
    weights = torch.linalg.solve(products + penalty * torch.eye(size, dtype=torch.float64), targets - targets.mean(0))
    scores = test @ training.T @ weights + targets.mean(0)
    return float((scores.argmax(1) == labels[size:]).double().mean())
