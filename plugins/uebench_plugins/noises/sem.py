"""SEM: stable error-minimising noise, REM with a random perturbation in the noise step."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Module

import uebench
from uebench import Noise
from uebench_plugins.noises.rem import REM


class SEM(REM):
    """Train the surrogate adversarially as REM does, but make the noise against random perturbations of that radius."""

    name = "sem"
    paper = "Liu et al., Stable Unlearnable Example: Enhancing the Robustness of Unlearnable Examples, AAAI 2024"

    def perturb(self, network: Module, images: Tensor, labels: Tensor) -> Tensor:
        """Return the image with one uniform draw from the ball added."""
        if self.adv_radius == 0 or self.adv_steps == 0:
            return images
        return (images + torch.empty_like(images).uniform_(-self.adv_radius, self.adv_radius)).clamp(0, 1)


@uebench.hookimpl
def register_noises() -> list[type[Noise]]:
    """Register this module's noise."""
    return [SEM]
