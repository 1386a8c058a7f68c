"""Colour: brightness and contrast of each channel of each training image made the same everywhere."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch

import uebench
from uebench import Breaker, kit, parameter

MEAN, DEVIATION = 1 / 2, 1 / 4
"""What every channel is brought to, about what photographs have: mid-grey, and two deviations to either end."""
FLAT = 1e-8
"""Below the deviation of any channel of two values, and above what rounding makes of a channel of one, in float64."""


class Colour(Breaker):
    """Bring each channel to one mean and deviation (`normalise`), or to an even histogram (`equalise`).

    Takes away what a noise adds to a whole channel. Normalised values beyond the range are clipped, and a channel of
    one value becomes mid-grey; on images far from photographs, such as digits, the untouched test images then differ
    from all that was trained on. Equalised channels are Pillow's, which leaves those below 255 pixels as they are.
    """

    name = "colour"
    paper = "none; textbook"
    by_image: ClassVar[bool] = True

    method: Literal["normalise", "equalise"] = parameter(default="normalise", doc="what is made the same")

    def filter(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the images, float32 (n, c, h, w)."""
        if self.method == "equalise":
            from torchvision.transforms.v2 import functional as T

            return kit.to_float(T.equalize(kit.to_bytes(images)))
        centred = images.double() - images.mean((2, 3), keepdim=True, dtype=torch.float64)
        deviation = centred.square().mean((2, 3), keepdim=True).sqrt()
        return (MEAN + DEVIATION * centred / deviation.clamp(min=FLAT)).clamp(0, 1).float()


@uebench.hookimpl
def register_breakers() -> list[type[Breaker]]:
    """Register this module's breaker."""
    return [Colour]
