"""No noise: the clean set, which is the reference of every board."""

from __future__ import annotations

from typing import ClassVar

import torch

import uebench
from uebench import Context, Images, Noise, kit


class NoNoise(Noise):
    """Leave the images unchanged."""

    name = "none"
    paper = "the reference"
    streams = True
    radius: ClassVar[float] = 0.0  # type: ignore[misc]

    def make(self, images: Images, labels: torch.Tensor, context: Context) -> torch.Tensor:
        """Return a noise of zeros, (n, c, h, w)."""
        return kit.blank(images, 0.0)


@uebench.hookimpl
def register_noises() -> list[type[Noise]]:
    """Register this module's noise."""
    return [NoNoise]
