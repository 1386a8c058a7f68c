"""REM: robust error-minimising noise, made against adversarial training."""

from __future__ import annotations

from typing import Literal

import torch

import uebench
from uebench import Context, Images, Noise, kit, parameter
from uebench_plugins.noises.surrogate import SurrogateNoise

Perturbation = Literal["adversarial", "random", "none"]


class REM(SurrogateNoise):
    """Minimise over the noise the loss of the augmented image under the worst perturbation (equation 5).

    The gradient is taken at the attacked point with the attack held fixed, and flows back through the augmentation
    only. The surrogate learns from attacked images as well. `eot=false` is equation 4: no augmentation, neither in the
    noise step nor in the surrogate's. `rounded=false` is algorithm 1 as printed, which shows the surrogate the noise
    before it is rounded to 8 bits; the released code rounds first. `adv_radius=0` gives EM with augmentation.
    """

    name = "rem"
    paper = "Fu et al., Robust Unlearnable Examples: Protecting Data Against Adversarial Learning, ICLR 2022"

    adv_radius: float = parameter(
        default=4 / 255, doc="L-inf radius of the perturbations", unit="pixel range [0, 1]", low=0, high=1
    )
    eot: bool = parameter(default=True, doc="expectation over the data set's augmentation")
    draws: int = parameter(default=5, doc="augmentations per noise step, each with its perturbation", low=1)
    noise_perturbation: Perturbation = parameter(default="adversarial", doc="perturbation of the noise step")
    noise_attack: kit.Attack = parameter(default="pgd", doc="attack of the noise step, if adversarial")
    surrogate_perturbation: Perturbation = parameter(default="adversarial", doc="perturbation of the surrogate step")
    surrogate_attack: kit.Attack = parameter(default="pgd", doc="attack of the surrogate step, if adversarial")
    distribution: Literal["uniform", "gaussian"] = parameter(
        default="uniform", doc="random perturbation: in the ball, or of that standard deviation and cut to the ball"
    )
    adv_steps: int = parameter(default=10, doc="steps of both attacks; 0 for no perturbation", low=0)
    adv_step: float = parameter(default=0.2, doc="size of such a step", unit="adv_radius", above=0)
    rounded: bool = parameter(default=True, doc="the surrogate learns from the noise in 8 bits")

    def make(self, images: Images, labels: torch.Tensor, context: Context) -> torch.Tensor:
        """Alternate the noise step with one training step of the surrogate under its perturbation."""
        network = context.network(self.surrogate)

        def view(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            seen = context.augment(x) if self.eot else x
            return self.perturb(network, seen, y, self.surrogate_perturbation, self.surrogate_attack)

        return self.alternate(
            images,
            labels,
            context,
            network,
            make=lambda x, y, old: self.noise(network, x, y, context),
            view=view,
            rounded=self.rounded,
        )

    def noise(
        self, network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, context: Context
    ) -> torch.Tensor:
        """Return the noise of a batch, from a random start, against a frozen network."""
        delta = torch.empty_like(images).uniform_(-self.radius, self.radius)
        for _ in range(self.noise_steps):
            slope = torch.zeros_like(delta)
            for draws in kit.parts(self.draws if self.eot else 1, images):
                slope += self.slope(network, images, delta, labels, context, draws)
            step = self.noise_step * self.radius
            delta = (delta - step * slope.sign()).clamp(-self.radius, self.radius)
        return delta

    def slope(
        self,
        network: torch.nn.Module,
        images: torch.Tensor,
        delta: torch.Tensor,
        labels: torch.Tensor,
        context: Context,
        draws: int = 1,
    ) -> torch.Tensor:
        """Return the gradient of the loss with respect to the noise, the sum of some draws made in one pass."""
        delta, labels = delta.detach().requires_grad_(True), labels.repeat(draws)
        seen = (images + delta).clamp(0, 1).repeat(draws, 1, 1, 1)
        seen = context.augment(seen) if self.eot else seen
        point = self.perturb(network, seen.detach(), labels, self.noise_perturbation, self.noise_attack)
        _, at_point = kit.slope(network, point, labels)
        (slope,) = torch.autograd.grad(seen, delta, at_point)
        return slope

    def step_passes(self) -> tuple[int, int]:
        """Return the passes of an image in one noise step and in one surrogate step."""

        def attacked(perturbation: Perturbation, attack: kit.Attack) -> int:
            there = perturbation == "adversarial" and self.adv_radius > 0
            return 1 + (kit.attack_passes(attack, self.adv_steps) if there else 0)

        draws = self.noise_steps * (self.draws if self.eot else 1)
        noise = draws * attacked(self.noise_perturbation, self.noise_attack)
        return noise, attacked(self.surrogate_perturbation, self.surrogate_attack)

    def perturb(
        self,
        network: torch.nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        perturbation: Perturbation,
        attack: kit.Attack,
    ) -> torch.Tensor:
        """Return the images attacked, or with one random draw from the ball added, or as they are."""
        if perturbation == "none" or self.adv_radius == 0 or self.adv_steps == 0:
            return images
        radius = self.adv_radius
        if perturbation == "adversarial":
            step = self.adv_step * radius
            return kit.adversary(attack, network, images, labels, radius=radius, steps=self.adv_steps, step=step)
        if self.distribution == "gaussian":
            drawn = torch.randn_like(images).mul(radius).clamp(-radius, radius)
        else:
            drawn = torch.empty_like(images).uniform_(-radius, radius)
        return (images + drawn).clamp(0, 1)


@uebench.hookimpl
def register_noises() -> list[type[Noise]]:
    """Register this module's noise."""
    return [REM]
