"""AR: autoregressive noise; a filter of the class computes each value from earlier values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch

import uebench
from uebench import Budget, Context, Images, Noise, kit, parameter

BORDER = 4
"""Rows and columns that are generated first and then removed; the first two are the random start."""
TRIALS = 3
"""Number of random starts on which a filter is tested."""
MAX_RMS = 50 / math.sqrt(3 * 32 * 32)
"""Root mean square above which a trial is unstable: an L2 norm of 50 for 3x32x32, as in the released search."""
BATCH = 256
VALUES = 2**18
"""Number of values per trial that are generated together."""


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
        default=1000, doc="number of stable filters to choose from, at least one per class", low=1
    )

    def budget(self, shape: Sequence[int]) -> Budget:
        """Return the L2 budget for images of this shape (c, h, w)."""
        return Budget("l2", self.radius * math.sqrt(math.prod(shape) / (3 * 32 * 32)))

    def make(self, images: Images, labels: torch.Tensor, context: Context) -> torch.Tensor:
        """Choose the filters and generate the noise of each image from a separate random start."""
        shape, limit = tuple(images.shape[1:]), self.budget(images.shape[1:])
        filters = self.choose_filters(context, shape)
        delta = kit.blank(images, limit)
        if kept := context.kept():
            delta.copy_(kept["delta"])
        batches = torch.split(torch.arange(len(labels), device=labels.device), BATCH)
        for step in context.steps(len(batches)):
            index = batches[step]
            noise = normalise(generate(filters[labels[index]], shape[1:]))
            delta[index.to(delta.device)] = kit.to_steps(limit.radius * noise, limit).to(delta.device)
            context.keep(delta=delta)
        return delta

    def choose_filters(self, context: Context, shape: Sequence[int]) -> torch.Tensor:
        """Return the filters of all classes, (classes, c, 3, 3), for images of shape (c, h, w)."""
        channels, *size = shape
        count = max(self.candidates, context.classes)
        filters, noise = draw_stable_filters(count * channels, size, context.device)
        filters, noise = filters.view(count, channels, 3, 3), normalise(noise.view(count, channels, *size))
        chosen, lowest_responses = [0], torch.full((count,), torch.inf, device=context.device)
        while len(chosen) < context.classes:
            lowest_responses = torch.minimum(lowest_responses, measure_response(filters[chosen[-1]], noise))
            chosen.append(int(lowest_responses.argmax()))
        return filters[chosen]


def normalise(noise: torch.Tensor) -> torch.Tensor:
    """Scale noise (b, c, h, w) to an L2 norm of 1 for each image."""
    norms: torch.Tensor = noise.flatten(1).norm(dim=1)
    return noise / norms.view(-1, 1, 1, 1)


def measure_response(filters: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Return the sum (b,) of positive differences between noise (b, c, h, w) and the prediction of filters (c, 3, 3).

    It is 0 for noise that these filters generated.
    """
    kernel = filters.clone()
    kernel[:, 2, 2] = -1
    return torch.nn.functional.conv2d(noise, kernel[None]).relu().sum((1, 2, 3))


def draw_stable_filters(count: int, size: Sequence[int], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw filters until `count` are stable; return them (count, 3, 3) and the noise of each (count, h, w)."""
    filters, noise = torch.empty(0, 3, 3, device=device), torch.empty(0, *size, device=device)
    while len(filters) < count:
        drawn = torch.randn(max(1, VALUES // math.prod(size)), 1, 3, 3, device=device)
        drawn[..., 2, 2] = 0
        drawn /= drawn.sum((2, 3), keepdim=True)
        trials = generate(drawn.expand(-1, TRIALS, -1, -1), size)
        is_stable = (trials.square().mean((2, 3)).sqrt() <= MAX_RMS).all(1)  # False for NaN
        filters, noise = torch.cat([filters, drawn[is_stable, 0]]), torch.cat([noise, trials[is_stable, 0]])
    return filters[:count], noise[:count]


def generate(filters: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Generate noise (b, c, h, w) with filters (b, c, 3, 3) and size (h, w), each from a separate Gaussian start.

    All values on an anti-diagonal are computed together, because none of them depends on another.
    """
    height, width = (side + BORDER for side in size)
    noise = torch.randn(*filters.shape[:2], height, width, device=filters.device)
    offsets = torch.arange(-2, 1, device=filters.device)
    for diagonal in range(4, height + width - 1):
        rows = torch.arange(max(2, diagonal - width + 1), min(height, diagonal - 1), device=filters.device)
        columns = diagonal - rows
        windows = noise[..., rows[:, None, None] + offsets[:, None], columns[:, None, None] + offsets]
        noise[..., rows, columns] = (windows * filters[:, :, None]).sum((-2, -1))
    return noise[..., BORDER:, BORDER:]


@uebench.hookimpl
def register_noises() -> list[type[Noise]]:
    """Register this module's noise."""
    return [AR]
