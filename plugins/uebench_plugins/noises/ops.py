"""OPS: one-pixel shortcut, which sets the same pixel to the same colour in every image of a class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

import uebench
from uebench import Budget, Context, Images, Noise, kit

BATCH = 128


class OPS(Noise):
    """Set one pixel of each image to a colour; the class determines the position and the colour.

    The search covers all pairs of a position and a corner of the colour cube. For each pair, it computes the absolute
    differences between the colour and the pixel, over all images of the class and all channels. It selects the pair
    with the largest ratio of mean to standard deviation. Each pair is used for one class only. If a pixel is equal in
    all images of a class, the deviation is 0, and the released code divides by 0; here such pixels are selected first,
    in order of decreasing difference from the colour. An image that already has the colour does not change.
    """

    name = "ops"
    paper = (
        "Wu et al., One-Pixel Shortcut: On the Learning Preference of Deep Neural Networks, ICLR 2023; released code"
    )
    streams: ClassVar[bool] = True
    radius: ClassVar[float] = 1.0  # type: ignore[misc]

    def budget(self, shape: Sequence[int]) -> Budget:
        """Return the budget of one pixel per image."""
        return Budget("l0", 1)

    def make(self, images: Images, labels: torch.Tensor, context: Context) -> torch.Tensor:
        """Find the pixel and the colour of every class, and set them in its images."""
        delta = kit.blank(images, self.budget(images.shape[1:]))
        batches = torch.split(torch.arange(len(labels), device=labels.device), BATCH)
        rows, columns, colours = search_pixels(*compute_moments(images, labels, context.classes, batches))
        for index in batches:
            classes = labels[index]
            pixels = images[index][torch.arange(len(index)), :, rows[classes], columns[classes]]
            change = colours[classes].to(delta) - kit.to_bytes(pixels).to(delta)
            image, row, column = (part.to(delta.device) for part in (index, rows[classes], columns[classes]))
            delta[image, :, row, column] = change
        return delta


def compute_moments(
    images: Images, labels: torch.Tensor, classes: int, batches: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the number of images of each class, the sums of their 8-bit values, and the sums of the squares, in int64.

    Shapes (classes,), (classes, c, h, w), (classes, c, h, w).
    """
    sums = torch.zeros(2, classes, *images.shape[1:], dtype=torch.int64, device=labels.device)
    for index in batches:
        values = kit.to_bytes(images[index]).long()
        sums[0].index_add_(0, labels[index], values)
        sums[1].index_add_(0, labels[index], values.square())
    return torch.bincount(labels, minlength=classes), sums[0], sums[1]


def search_pixels(
    counts: torch.Tensor, totals: torch.Tensor, squares: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the row and column (classes,) and the colour (classes, c), 0 or 255, of the pixel of every class.

    The arguments are the results of `compute_moments`. For up to four million images per class, 64-bit integers
    distinguish a deviation of 0 from all others.
    """
    channels, height, width = totals.shape[1:]
    corners = torch.arange(2**channels, device=totals.device)[:, None] >> torch.arange(channels, device=totals.device)
    bright = (corners % 2).bool()[:, :, None, None]
    free = torch.ones(len(bright), height, width, dtype=torch.bool, device=totals.device)
    pairs = torch.empty(len(counts), dtype=torch.int64, device=totals.device)
    for label, (count, total, square) in enumerate(zip(counts, totals, squares, strict=True)):
        difference = torch.where(bright, 255 * count - total, total).sum(1)
        square_difference = torch.where(bright, 255 * 255 * count - 2 * 255 * total + square, square).sum(1)
        # the variance, times the square of the number of values
        scaled_variance = channels * count * square_difference - difference.square()
        score = difference / scaled_variance.double().clamp(min=1e-18).sqrt()
        pairs[label] = torch.where(free, score, -1).argmax()
        free.view(-1)[pairs[label]] = False
    colour, position = pairs // (height * width), pairs % (height * width)
    return position // width, position % width, bright[colour, :, 0, 0] * 255


@uebench.hookimpl
def register_noises() -> list[type[Noise]]:
    """Register this module's noise."""
    return [OPS]
