"""Corruption of training images: some become grey, and all get random noise."""

from __future__ import annotations

import torch

import uebench
from uebench import Breaker, parameter

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in ITU-R 601."""


class Corruption(Breaker):
    """Make some images grey and add Gaussian noise to all images, at each step.

    This is the second half of ECLIPSE, without the diffusion model of its first half. Values are rounded to 8 bits.
    """

    name = "corruption"
    paper = "Wang et al., ECLIPSE: Expunging Clean-label Indiscriminate Poisons via Sparse Diffusion Purification, 2024"

    grey: float = parameter(default=0.4, doc="share of grey images", low=0, high=1)
    deviation: float = parameter(
        default=0.05, doc="standard deviation of the Gaussian noise", unit="pixel range [0, 1]", low=0
    )

    def augment(self, images: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the corrupted images (b, c, h, w); only images with three channels become grey."""
        if images.shape[1] == 3:
            luma = torch.einsum("bchw,c->bhw", images, torch.tensor(LUMA).to(images, non_blocking=True))[:, None]
            is_grey = torch.rand(len(images), 1, 1, 1, device=images.device) < self.grey
            images = torch.where(is_grey, luma, images)
        noisy = (images + self.deviation * torch.randn_like(images)).clamp(0, 1)
        return (noisy * 255).round() / 255, targets


@uebench.hookimpl
def register_breakers() -> list[type[Breaker]]:
    """Register this module's breaker."""
    return [Corruption]
