"""AR: autoregressive noise, which a filter of the class continues from value to value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch

import uebench
from uebench import Budget, Context, Images, Noise, kit, parameter

BORDER = 4
"""Rows and columns made before those that are kept, of which the first two are the random start."""
TRIALS = 3
"""Random starts that a filter is tried on."""
LOUDEST = 50 / math.sqrt(3 * 32 * 32)
"""Root mean square beyond which a trial is unstable: the released search's L2 norm of 50 for 3x32x32."""
BATCH = 256
VALUES = 2**18
"""Values of a trial made at once."""


class AR(Noise):
    """Add autoregressive noise: each value is a weighted sum of the eight values above it and to its left.

    Each class has one 3x3 filter per channel. Its weights sum to 1, and the last weight, for the value itself, is 0.
    The noise of each image starts from random Gaussian values. Its L2 norm is `radius` for 3x32x32 values and grows
    with the square root of their number, so the noise per value is the same for images of any size.

    The authors released tables of filters for 10 and for 100 classes; they are not used here. As in their search, a
    filter is a set of Gaussian weights divided by their sum. It is rejected if the noise from any of three random
    starts is too large; here this is tested per channel, at the size of the images. Their search makes up to a million
    draws and keeps the first filter on whose noise the filter of every earlier class has a response of at least 10 (3
    for 100 classes). Here each class takes the filter with the highest lowest response among `candidates` stable ones.
    """

    name = "ar"
    paper = "Sandoval-Segura et al., Autoregressive Perturbations for Data Poisoning, NeurIPS 2022; released code"
    streams: ClassVar[bool] = True

    radius: float = parameter(
        default=1.0, doc="L2 norm of the noise of a 3x32x32 image; scaled for other sizes", unit="pixel range", above=0
    )
    candidates: int = parameter(
        default=1000, doc="number of stable filters that the classes choose from, at least one per class", low=1
    )

    def budget(self, shape: Sequence[int]) -> Budget:
        """Return the L2 norm for images of this shape."""
        return Budget("l2", self.radius * math.sqrt(math.prod(shape) / (3 * 32 * 32)))

    def make(self, images: Images, labels: torch.Tensor, context: Context) -> torch.Tensor:
        """Choose the filters, and make the noise of each image from its own random start."""
        shape, limit = tuple(images.shape[1:]), self.budget(images.shape[1:])
        filters = self.choose(context, shape)
        delta = kit.blank(images, limit)
        if kept := context.kept():
            delta.copy_(kept["delta"])
        sweep = torch.split(torch.arange(len(labels), device=labels.device), BATCH)
        for step in context.steps(len(sweep)):
            index = sweep[step]
            found = kit.to_steps(limit.radius * unit(grow(filters[labels[index]], shape[1:])), limit)
            delta[index.to(delta.device)] = found.to(delta.device)
            context.keep(delta=delta)
        return delta

    def choose(self, context: Context, shape: Sequence[int]) -> torch.Tensor:
        """Return the filters of every class, (classes, c, 3, 3), for images of a shape (c, h, w)."""
        channels, *size = shape
        count = max(self.candidates, context.classes)
        filters, noise = stable(count * channels, size, context.device)
        filters, noise = filters.view(count, channels, 3, 3), unit(noise.view(count, channels, *size))
        chosen, least = [0], torch.full((count,), torch.inf, device=context.device)
        while len(chosen) < context.classes:
            least = torch.minimum(least, response(filters[chosen[-1]], noise))
            chosen.append(int(least.argmax()))
        return filters[chosen]


def unit(noise: torch.Tensor) -> torch.Tensor:
    """Return noise (b, c, h, w) with an L2 norm of 1 for each image."""
    norms: torch.Tensor = noise.flatten(1).norm(dim=1)
    return noise / norms.view(-1, 1, 1, 1)


def response(filters: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Return how much (b,) noise (b, c, h, w) departs upwards from what filters (c, 3, 3) predict; 0 for their own."""
    kernel = filters.clone()
    kernel[:, 2, 2] = -1
    return torch.nn.functional.conv2d(noise, kernel[None]).relu().sum((1, 2, 3))


def stable(count: int, size: Sequence[int], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw filters (count, 3, 3) until so many are stable; returns them, and noise (count, h, w) of each."""
    filters, noise = torch.empty(0, 3, 3, device=device), torch.empty(0, *size, device=device)
    while len(filters) < count:
        drawn = torch.randn(max(1, VALUES // math.prod(size)), 1, 3, 3, device=device)
        drawn[..., 2, 2] = 0
        drawn /= drawn.sum((2, 3), keepdim=True)
        trials = grow(drawn.expand(-1, TRIALS, -1, -1), size)
        calm = (trials.square().mean((2, 3)).sqrt() <= LOUDEST).all(1)  # not so for what is no number
        filters, noise = torch.cat([filters, drawn[calm, 0]]), torch.cat([noise, trials[calm, 0]])
    return filters[:count], noise[:count]


def grow(filters: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Return noise (b, c, h, w) of filters (b, c, 3, 3) and a size (h, w), each from a Gaussian start of its own.

    Goes by anti-diagonals: no value depends on another of its own.
    """
    height, width = (side + BORDER for side in size)
    noise = torch.randn(*filters.shape[:2], height, width, device=filters.device)
    reach = torch.arange(-2, 1, device=filters.device)
    for diagonal in range(4, height + width - 1):
        rows = torch.arange(max(2, diagonal - width + 1), min(height, diagonal - 1), device=filters.device)
        columns = diagonal - rows
        windows = noise[..., rows[:, None, None] + reach[:, None], columns[:, None, None] + reach]
        noise[..., rows, columns] = (windows * filters[:, :, None]).sum((-2, -1))
    return noise[..., BORDER:, BORDER:]


@uebench.hookimpl
def register_noises() -> list[type[Noise]]:
    """Register this module's noise."""
    return [AR]
