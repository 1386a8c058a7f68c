"""REM: robust error-minimising noise, which expects the learner to train adversarially."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn import functional as F

import uebench
from uebench import Context, Noise, Recipe, Target, kit, parameter


class REM(Noise):
    """Minimise over the noise the loss of the augmented image under the worst perturbation (equation 5).

    The gradient is taken at the attacked point with the attack held fixed, and flows back through the augmentation
    only. The surrogate learns from attacked images as well.
    """

    name = "rem"
    paper = "Fu et al., Robust Unlearnable Examples: Protecting Data Against Adversarial Learning, ICLR 2022"

    adv_radius: float = parameter(
        default=4 / 255, doc="L-inf radius of the inner attack", unit="pixel range [0, 1]", low=0, high=1
    )
    surrogate: Target = parameter(default="resnet18", doc="surrogate network")
    draws: int = parameter(default=5, doc="augmentations per noise step (expectation over transformation)", low=1)
    noise_steps: int = parameter(default=10, doc="descent steps on the noise, each time", low=1)
    noise_step: float = parameter(default=0.2, doc="size of such a step", unit="radius", above=0)
    adv_steps: int = parameter(default=10, doc="steps of the inner attack", low=0)
    adv_step: float = parameter(default=0.2, doc="size of such a step", unit="adv_radius", above=0)
    steps: int = parameter(default=5000, doc="surrogate training steps", unit="batches", low=1)
    batch: int = parameter(default=128, doc="batch size", unit="images", low=1)
    lr: float = parameter(default=0.1, doc="surrogate's highest learning rate", above=0)
    schedule: Literal["step", "one-cycle", "constant"] = parameter(
        default="step", doc="surrogate's learning-rate schedule"
    )

    def make(self, images: Tensor, labels: Tensor, context: Context) -> Tensor:
        """Alternate the noise step with one adversarial training step of the surrogate."""
        network = context.network(self.surrogate)
        return kit.alternate(
            images,
            labels,
            context,
            network=network,
            recipe=Recipe(steps=self.steps, batch=self.batch, lr=self.lr, schedule=self.schedule),
            radius=self.radius,
            make=lambda x, y: self.noise(network, x, y, context),
            view=lambda x, y: self.attack(network, context.augment(x), y),
        )

    def noise(self, network: Module, images: Tensor, labels: Tensor, context: Context) -> Tensor:
        """Return the noise of a batch, from a random start, against a frozen network."""
        delta = torch.empty_like(images).uniform_(-self.radius, self.radius)
        for _ in range(self.noise_steps):
            slope = torch.zeros_like(delta)
            for _ in range(self.draws):
                slope += self.slope(network, images, delta, labels, context)
            step = self.noise_step * self.radius
            delta = (delta - step * slope.sign()).clamp(-self.radius, self.radius)
        return delta

    def slope(self, network: Module, images: Tensor, delta: Tensor, labels: Tensor, context: Context) -> Tensor:
        """Return the gradient of the loss with respect to the noise for one draw of the augmentation."""
        delta = delta.detach().requires_grad_(True)
        seen = context.augment((images + delta).clamp(0, 1))
        point = self.perturb(network, seen.detach(), labels).requires_grad_(True)
        loss = F.cross_entropy(network(point), labels, reduction="sum")
        (at_point,) = torch.autograd.grad(loss, point)
        (slope,) = torch.autograd.grad(seen, delta, at_point)
        return slope

    def perturb(self, network: Module, images: Tensor, labels: Tensor) -> Tensor:
        """Return the point at which the noise step takes its gradient: the attacked image."""
        return self.attack(network, images, labels)

    def attack(self, network: Module, images: Tensor, labels: Tensor) -> Tensor:
        """Return adversarial examples against the surrogate."""
        step = self.adv_step * self.adv_radius
        return kit.pgd(network, images, labels, radius=self.adv_radius, steps=self.adv_steps, step=step)


@uebench.hookimpl
def register_noises() -> list[type[Noise]]:
    """Register this module's noise."""
    return [REM]
