"""Measures how well a linear classifier tells the classes of held-out images apart: detectable noise scores high."""

from __future__ import annotations

import torch

MOST_IMAGES = 2500
"""Images that are used; of a larger set, a random draw from a fixed seed."""
TRAINING_SHARE = 0.8
CHUNK = 4096
"""Values of an image that are processed at once."""
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
    after, before = (images.flatten(1)[order.to(images.device)].cpu() for images in (released, clean))
    targets = labels.cpu()[order]
    size = round(TRAINING_SHARE * len(order))
    return {
        "separability_noise": _held_out_accuracy(_products(after, before, size), targets, size),
        "separability_released": _held_out_accuracy(_products(after, None, size), targets, size),
    }


def _products(images: torch.Tensor, subtracted: torch.Tensor | None, size: int) -> torch.Tensor:
    """Return the products (n, size) of all values with the first `size`, centred on the mean of those.

    Values are images (n, d) in 8 bits, minus others where they are given. They are taken in chunks of pixels, so that
    memory does not grow with the size of an image.
    """
    products = torch.zeros(len(images), size, dtype=torch.float64)
    for start in range(0, images.shape[1], CHUNK):
        values = images[:, start : start + CHUNK].double()
        if subtracted is not None:
            values -= subtracted[:, start : start + CHUNK]
        values = (values - values[:size].mean(0)) / 255
        products += values @ values[:size].T
    return products


def _held_out_accuracy(products: torch.Tensor, labels: torch.Tensor, size: int) -> float:
    """Return the accuracy on images after the first `size`, of ridge regression on those, from products (n, size)."""
    targets = torch.nn.functional.one_hot(labels[:size], int(labels.max()) + 1).double()
    training = products[:size]
    penalty = REGULARISATION * float(training.diagonal().mean()) or 1.0
    weights = torch.linalg.solve(training + penalty * torch.eye(size, dtype=torch.float64), targets - targets.mean(0))
    scores = products[size:] @ weights + targets.mean(0)
    return float((scores.argmax(1) == labels[size:]).double().mean())
