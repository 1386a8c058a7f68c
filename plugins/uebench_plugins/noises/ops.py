"""OPS: one-pixel shortcut, the same pixel in the same colour in every image of a class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

import uebench
from uebench import Budget, Context, Images, Noise, kit

BATCH = 128


class OPS(Noise):
    """Set one pixel of each image to a colour; its position and colour belong to the class.

    The search covers all positions and all corners of the colour cube. For each pair it takes the absolute difference
    between colour and pixel over the images of the class and their channels; the pair with the largest ratio of mean to
    standard deviation wins. Each pair serves one class only. If a pixel is equal in all images of a class, the
    deviation is 0, and the released code divides by 0; here such pixels come first, the farthest from the colour before
    the others. An image that already has the colour does not change.
    """

    name = "ops"
    paper = (
        "Wu et al., One-Pixel Shortcut: On the Learning Preference of Deep Neural Networks, ICLR 2023; released code"
    )
    streams: ClassVar[bool] = True
    radius: ClassVar[float] = 1.0  # type: ignore[misc]

    def budget(self, shape: Sequence[int]) -> Budget:
        """Return one pixel."""
        return Budget("l0", 1)

    def make(self, images: Images, labels: torch.Tensor, context: Context) -> torch.Tensor:
        """Search the pixel of every class, and set it."""
        delta = kit.blank(images, self.budget(images.shape[1:]))
        sweep = torch.split(torch.arange(len(labels), device=labels.device), BATCH)
        rows, columns, colours = search(*moments(images, labels, context.classes, sweep))
        for index in sweep:
            own = labels[index]
            pixels = images[index][torch.arange(len(index)), :, rows[own], columns[own]]
            change = colours[own].to(delta) - kit.to_bytes(pixels).to(delta)
            place, row, column = (indices.to(delta.device) for indices in (index, rows[own], columns[own]))
            delta[place, :, row, column] = change
        return delta


def moments(
    images: Images, labels: torch.Tensor, classes: int, sweep: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the number of images of each class, the sums of their 8-bit values and of the squares, in int64.

    Shapes (classes,), (classes, c, h, w), (classes, c, h, w).
    """
    sums = torch.zeros(2, classes, *images.shape[1:], dtype=torch.int64, device=labels.device)
    for index in sweep:
        x = kit.to_bytes(images[index]).long()
        sums[0].index_add_(0, labels[index], x)
        sums[1].index_add_(0, labels[index], x.square())
    return torch.bincount(labels, minlength=classes), sums[0], sums[1]


def search(
    counts: torch.Tensor, totals: torch.Tensor, squares: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return row, column (classes,) and colour (classes, c), 0 or 255, of every class's pixel; arguments of `moments`.

    Up to four million images a class, whole numbers in 64 bits tell a deviation of 0 from any other.
    """
    channels, height, width = totals.shape[1:]
    corners = torch.arange(2**channels, device=totals.device)[:, None] >> torch.arange(channels, device=totals.device)
    bright = (corners % 2).bool()[:, :, None, None]
    free = torch.ones(len(bright), height, width, dtype=torch.bool, device=totals.device)
    found = torch.empty(len(counts), dtype=torch.int64, device=totals.device)
    for label, (count, total, square) in enumerate(zip(counts, totals, squares, strict=True)):
        far = torch.where(bright, 255 * count - total, total).sum(1)
        far_square = torch.where(bright, 255 * 255 * count - 2 * 255 * total + square, square).sum(1)
        spread = channels * count * far_square - far.square()  # the variance, times the square of the number of values
        score = far / spread.double().clamp(min=1e-18).sqrt()
        found[label] = torch.where(free, score, -1).argmax()
        free.view(-1)[found[label]] = False
    colour, place = found // (height * width), found % (height * width)
    return place // width, place % width, bright[colour, :, 0, 0] * 255


@uebench.hookimpl
def register_noises() -> list[type[Noise]]:
    """Register this module's noise."""
    return [OPS]
