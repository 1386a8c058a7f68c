"""REM: robust error-minimising noise, optimised against adversarial training."""

from __future__ import annotations

from typing import Literal

import torch

import uebench
from uebench import Context, Images, Noise, kit, parameter
from uebench_plugins.noises.surrogate import SurrogateNoise

Perturbation = Literal["adversarial", "random", "none"]


class REM(SurrogateNoise):
    """Find the noise that minimises the loss of the augmented image under the worst perturbation (equation 5).

    The gradient is computed at the attacked image. The attack is treated as constant, so the gradient is propagated
    through the augmentation only. The surrogate learns from attacked images as well. `eot=false` is equation 4, without
    augmentation in the noise step or in the surrogate step. `rounded=false` is algorithm 1 as printed, in which the
    surrogate learns from the noise before it is rounded to 8 bits; the released code rounds first. `adv_radius=0` gives
    EM with augmentation.
    """

    name = "rem"
    paper = (
        "Fu et al., Robust Unlearnable Examples: Protecting Data Against Adversarial Learning, ICLR 2022, "
        "arXiv 2203.14533"
    )

    adv_radius: float = parameter(
        default=4 / 255, doc="L-inf radius of the perturbations", unit="pixel range [0, 1]", low=0, high=1
    )
    eot: bool = parameter(default=True, doc="take the expectation over the data set's augmentation")
    draws: int = parameter(default=5, doc="random augmentations per noise step, each with a new perturbation", low=1)
    noise_perturbation: Perturbation = parameter(default="adversarial", doc="perturbation of the noise step")
    noise_attack: kit.Attack = parameter(default="pgd", doc="attack of the noise step, if adversarial")
    surrogate_perturbation: Perturbation = parameter(default="adversarial", doc="perturbation of the surrogate step")
    surrogate_attack: kit.Attack = parameter(default="pgd", doc="attack of the surrogate step, if adversarial")
    distribution: Literal["uniform", "gaussian"] = parameter(
        default="uniform",
        doc="random perturbation: uniform, or Gaussian with standard deviation adv_radius, clipped to the ball",
    )
    adv_steps: int = parameter(default=10, doc="steps of both attacks; 0 for no perturbation", low=0)
    adv_step: float = parameter(default=0.2, doc="step size of both attacks", unit="adv_radius", above=0)
    rounded: bool = parameter(default=True, doc="the surrogate learns from the noise in 8 bits")

    def make(self, images: Images, labels: torch.Tensor, context: Context) -> torch.Tensor:
        """Alternate the noise step with one training step of the surrogate under its perturbation."""
        network = context.network(self.surrogate)

        def view(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            augmented = context.augment(x) if self.eot else x
            return self.perturb(network, augmented, y, self.surrogate_perturbation, self.surrogate_attack)

        return self.alternate(
            images,
            labels,
            context,
            network,
            make=lambda x, y, previous: self.optimise_noise(network, x, y, context),
            view=view,
            rounded=self.rounded,
        )

    def optimise_noise(
        self, network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, context: Context
    ) -> torch.Tensor:
        """Return the noise (b, c, h, w) of a batch, optimised from a random start against a frozen network."""
        delta = torch.empty_like(images).uniform_(-self.radius, self.radius)
        for _ in range(self.noise_steps):
            gradient = torch.zeros_like(delta)
            for draws in kit.parts(self.draws if self.eot else 1, images):
                gradient += self.noise_gradient(network, images, delta, labels, context, draws)
            step = self.noise_step * self.radius
            delta = (delta - step * gradient.sign()).clamp(-self.radius, self.radius)
        return delta

    def noise_gradient(
        self,
        network: torch.nn.Module,
        images: torch.Tensor,
        delta: torch.Tensor,
        labels: torch.Tensor,
        context: Context,
        draws: int = 1,
    ) -> torch.Tensor:
        """Return the gradient of the loss with respect to the noise, summed over `draws` draws in one pass."""
        delta, labels = delta.detach().requires_grad_(True), labels.repeat(draws)
        views = (images + delta).clamp(0, 1).repeat(draws, 1, 1, 1)
        views = context.augment(views) if self.eot else views
        point = self.perturb(network, views.detach(), labels, self.noise_perturbation, self.noise_attack)
        _, point_gradient = kit.image_gradient(network, point, labels)
        (gradient,) = torch.autograd.grad(views, delta, point_gradient)
        return gradient

    def step_passes(self) -> tuple[int, int]:
        """Return the number of passes per image in one noise step and in one surrogate step."""

        def count_passes(perturbation: Perturbation, attack: kit.Attack) -> int:
            is_attacked = perturbation == "adversarial" and self.adv_radius > 0
            return 1 + (kit.attack_passes(attack, self.adv_steps) if is_attacked else 0)

        draws = self.noise_steps * (self.draws if self.eot else 1)
        noise_passes = draws * count_passes(self.noise_perturbation, self.noise_attack)
        return noise_passes, count_passes(self.surrogate_perturbation, self.surrogate_attack)

    def perturb(
        self,
        network: torch.nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        perturbation: Perturbation,
        attack: kit.Attack,
    ) -> torch.Tensor:
        """Return the images (b, c, h, w) after an attack, with a random perturbation added, or unchanged."""
        if perturbation == "none" or self.adv_radius == 0 or self.adv_steps == 0:
            return images
        radius = self.adv_radius
        if perturbation == "adversarial":
            step = self.adv_step * radius
            return kit.adversary(attack, network, images, labels, radius=radius, steps=self.adv_steps, step=step)
        if self.distribution == "gaussian":
            random = torch.randn_like(images).mul(radius).clamp(-radius, radius)
        else:
            random = torch.empty_like(images).uniform_(-radius, radius)
        return (images + random).clamp(0, 1)


@uebench.hookimpl
def register_noises() -> list[type[Noise]]:
    """Register this module's noise."""
    return [REM]
