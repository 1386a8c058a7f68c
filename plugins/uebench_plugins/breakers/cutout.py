"""Cutout: a black square over each training image."""

from __future__ import annotations

import torch

import uebench
from uebench import Breaker, UserError, parameter


class Cutout(Breaker):
    """Blacken a random square of each image at each step; the part of it beyond the border has no effect.

    The centre is uniform over all pixels. The paper fills the square with the mean of the set; the code of EM and ISS
    fills it with black, as here. The paper's sizes are 16 for CIFAR-10, 8 for CIFAR-100 and 20 for SVHN.
    """

    name = "cutout"
    paper = "DeVries and Taylor, Improved Regularization of Convolutional Neural Networks with Cutout, 2017"

    size: int = parameter(default=16, doc="side of the square", unit="pixels", low=1)

    def augment(self, images: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the images with a black square; raises `UserError` if the square is larger than the image."""
        count, _, height, width = images.shape
        if self.size > min(height, width):
            largest = min(height, width)
            raise UserError(
                f"{self.name}: size must be at most {largest} on images of {height}x{width}, not {self.size}"
            )

        def is_inside(side: int) -> torch.Tensor:
            start = torch.randint(side, (count, 1), device=images.device) - self.size // 2
            pixel = torch.arange(side, device=images.device)
            return (pixel >= start) & (pixel < start + self.size)

        square = is_inside(height)[:, None, :, None] & is_inside(width)[:, None, None, :]
        return images.masked_fill(square, 0), targets


@uebench.hookimpl
def register_breakers() -> list[type[Breaker]]:
    """Register this module's breaker."""
    return [Cutout]
