"""Adversarial training in the L1 ball."""

from __future__ import annotations

from typing import Literal

import torch

import uebench
from uebench import Breaker, kit, parameter


class AdvL1(Breaker):
    """Train on adversarial examples of bounded L1 norm only; radius 0 is plain training exactly.

    The defaults follow the REM code: dense steps along the gradient, and projection by scaling. Neither is optimal in
    L1. `exact=true` uses the steepest step, which changes one value, and the Euclidean projection.
    """

    name = "adv-l1"
    paper = "Fu et al., Robust Unlearnable Examples, ICLR 2022, table 11; projection of Duchi et al., ICML 2008"

    radius: float = parameter(
        default=1000 / 255, doc="L1 radius of the attack", unit="norm of [0, 1] pixels", low=0, neutral=0
    )
    exact: bool = parameter(default=False, doc="use the steepest step and the Euclidean projection")
    method: Literal["pgd", "fgsm", "rs-fgsm"] = parameter(default="pgd", doc="inner attack")
    steps: int = parameter(default=10, doc="attack steps", low=0)
    step: float = parameter(default=0.2, doc="size of a step", unit="radius", above=0)

    def attack(
        self, model: torch.nn.Module, images: torch.Tensor, targets: torch.Tensor, progress: float
    ) -> torch.Tensor:
        """Return the attacked images."""
        norm: kit.Norm = "l1-exact" if self.exact else "l1"
        radius, step = self.radius, self.step * self.radius
        return kit.adversary(self.method, model, images, targets, radius=radius, steps=self.steps, step=step, norm=norm)

    def attacked_accuracy(
        self, model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor | None:
        """Return the accuracy under ten-step PGD; it is low if the network overfitted to a one-step attack."""
        if not self.radius or not self.steps:
            return None
        norm: kit.Norm = "l1-exact" if self.exact else "l1"
        return kit.accuracy_under_pgd(model, images, labels, radius=self.radius, norm=norm)

    def passes(self) -> float:
        """Return the number of network passes of the attack."""
        return kit.attack_passes(self.method, self.steps) if self.radius else 0


@uebench.hookimpl
def register_breakers() -> list[type[Breaker]]:
    """Register this module's breaker."""
    return [AdvL1]
