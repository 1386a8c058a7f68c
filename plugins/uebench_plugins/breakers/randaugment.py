"""RandAugment: a few random operations on each training image."""

from __future__ import annotations

import torch

import uebench
from uebench import Breaker, parameter
from uebench_plugins.breakers.randaugment_ops import OPERATIONS, apply_operations

BINS = 30
"""The largest magnitude, at which operations are strongest; torchvision has 31 bins, from 0."""


class RandAugment(Breaker):
    """Apply random operations of equal strength at each step; operation and direction are drawn for each image.

    Operations and strengths are those of torchvision, which follow the paper. Images with similar operations are
    processed together: on one core, a batch of 128 at 32x32 takes a fifth of the time of torchvision's class, which is
    called for each image.
    """

    name = "randaugment"
    version = 2
    paper = "Cubuk et al., RandAugment: Practical Automated Data Augmentation with a Reduced Search Space, CVPRW 2020"

    operations: int = parameter(default=2, doc="operations in a row", low=1)
    magnitude: int = parameter(default=9, doc="strength of all operations", unit="of 30", low=0, high=BINS)

    def augment(self, images: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the images after the operations."""
        for _ in range(self.operations):
            chosen = torch.randint(len(OPERATIONS), (len(images),))
            sign = torch.randint(2, (len(images),)) * 2 - 1
            images = apply_operations(images, chosen, sign * self.magnitude / BINS)
        return images, targets


@uebench.hookimpl
def register_breakers() -> list[type[Breaker]]:
    """Register this module's breaker."""
    return [RandAugment]
