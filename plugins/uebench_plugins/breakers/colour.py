"""Colour: gives each channel of each training image the same brightness and contrast."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch

import uebench
from uebench import Breaker, kit, parameter

MEAN, DEVIATION = 1 / 2, 1 / 4
"""Mean and standard deviation of every channel after the filter, close to those of photographs."""
SMALLEST_DEVIATION = 1e-8
"""A deviation below this is a rounding error of float64: all values of the channel are equal."""


class Colour(Breaker):
    """Give each channel the same mean and deviation (`normalise`), or an even histogram (`equalise`).

    This removes what a noise adds to a whole channel. Normalised values are clipped to the range, and a channel with
    one value becomes mid-grey. Test images are not filtered: for images unlike photographs, such as digits, they then
    differ from the training images. `equalise` follows Pillow, which does not change channels with fewer than 255
    pixels.
    """

    name = "colour"
    paper = "none; textbook"
    by_image: ClassVar[bool] = True

    method: Literal["normalise", "equalise"] = parameter(
        default="normalise", doc="what is made equal: mean and deviation, or the histogram"
    )

    def filter(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the images, float32 (n, c, h, w)."""
        if self.method == "equalise":
            from torchvision.transforms.v2 import functional as T

            return kit.to_float(T.equalize(kit.to_bytes(images)))
        centred = images.double() - images.mean((2, 3), keepdim=True, dtype=torch.float64)
        deviation = centred.square().mean((2, 3), keepdim=True).sqrt()
        return (MEAN + DEVIATION * centred / deviation.clamp(min=SMALLEST_DEVIATION)).clamp(0, 1).float()


@uebench.hookimpl
def register_breakers() -> list[type[Breaker]]:
    """Register this module's breaker."""
    return [Colour]
