"""Adversarial training in the L2 ball."""

from __future__ import annotations

from typing import Literal

import torch

import uebench
from uebench import Breaker, kit, parameter


class AdvL2(Breaker):
    """Train on adversarial examples of bounded L2 norm only; radius 0 is plain training exactly.

    Steps and random start are those of the REM code: along the gradient divided by its norm, from the sphere.
    """

    name = "adv-l2"
    paper = "Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018; REM, table 11"

    radius: float = parameter(
        default=50 / 255, doc="L2 radius of the attack", unit="norm of [0, 1] pixels", low=0, neutral=0
    )
    method: Literal["pgd", "fgsm", "rs-fgsm"] = parameter(default="pgd", doc="inner attack")
    steps: int = parameter(default=10, doc="attack steps", low=0)
    step: float = parameter(default=0.2, doc="size of a step", unit="radius", above=0)

    def attack(
        self, model: torch.nn.Module, images: torch.Tensor, targets: torch.Tensor, progress: float
    ) -> torch.Tensor:
        """Return the attacked images."""
        radius, step = self.radius, self.step * self.radius
        return kit.adversary(self.method, model, images, targets, radius=radius, steps=self.steps, step=step, norm="l2")

    def attacked_accuracy(
        self, model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor | None:
        """Return the accuracy under ten-step PGD; it is low if the network overfitted to a one-step attack."""
        if not self.radius or not self.steps:
            return None
        return kit.accuracy_under_pgd(model, images, labels, radius=self.radius, norm="l2")

    def passes(self) -> float:
        """Return the number of network passes of the attack."""
        return kit.attack_passes(self.method, self.steps) if self.radius else 0


@uebench.hookimpl
def register_breakers() -> list[type[Breaker]]:
    """Register this module's breaker."""
    return [AdvL2]
