"""Adversarial training in the L-inf ball."""

from __future__ import annotations

import torch

import uebench
from uebench import Breaker, kit, parameter


class AdvLinf(Breaker):
    """Train on adversarial examples only; radius 0 is plain training exactly.

    One-step attacks (`method=fgsm`, `rs-fgsm`) use a fixed step size and ignore `step`.
    """

    name = "adv-linf"
    paper = "Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018; settings of REM"

    radius: float = parameter(
        default=4 / 255, doc="L-inf radius of the attack", unit="pixel range [0, 1]", low=0, high=1, neutral=0
    )
    method: kit.Attack = parameter(default="pgd", doc="inner attack")
    steps: int = parameter(default=10, doc="attack steps", low=0)
    step: float = parameter(default=0.2, doc="size of a step", unit="radius", above=0)

    def attack(
        self, model: torch.nn.Module, images: torch.Tensor, targets: torch.Tensor, progress: float
    ) -> torch.Tensor:
        """Return the attacked images."""
        step = self.step * self.radius
        return kit.adversary(self.method, model, images, targets, radius=self.radius, steps=self.steps, step=step)

    def attacked_accuracy(
        self, model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor | None:
        """Return the accuracy under ten-step PGD; it is low if the network overfitted to a one-step attack."""
        if not self.radius or not self.steps:
            return None
        return kit.accuracy_under_pgd(model, images, labels, radius=self.radius)

    def passes(self) -> float:
        """Return the number of network passes of the attack."""
        return kit.attack_passes(self.method, self.steps) if self.radius else 0


@uebench.hookimpl
def register_breakers() -> list[type[Breaker]]:
    """Register this module's breaker."""
    return [AdvLinf]
