"""No noise: the clean set, the reference of every board."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

import uebench
from uebench import Context, Noise


class NoNoise(Noise):
    """Leave the images as they are."""

    name = "none"
    paper = "the reference"
    radius: ClassVar[float] = 0.0  # type: ignore[misc]

    def make(self, images: Tensor, labels: Tensor, context: Context) -> Tensor:
        """Return zeros."""
        return torch.zeros_like(images)


@uebench.hookimpl
def register_noises() -> list[type[Noise]]:
    """Register this module's noise."""
    return [NoNoise]
