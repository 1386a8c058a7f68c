"""TAP: targeted adversarial poisoning, adversarial examples of a clean network towards the next class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch

import uebench
from uebench import Context, Images, Noise, Target, kit, parameter


class TAP(Noise):
    """Minimise the loss of x + noise towards class y + 1 on a network trained on the clean set.

    Each step sees one draw of the augmentation, and the noise is the last iterate.

    The defaults are the REM code's, behind the published TAP columns (table 5 there). The official code restarts the
    whole set eight times from Gaussian noise and keeps the start of the lowest loss, with larger steps:
    `restarts=8,start=gaussian,noise_step=0.05`. REM's paper prints an arg max; the code descends.
    """

    name = "tap"
    paper = "Fowl et al., Adversarial Examples Make Strong Poisons, NeurIPS 2021; settings of REM, table 5"
    streams: ClassVar[bool] = True

    victim: Target = parameter(default="resnet18", doc="network trained on the clean set, by the run's recipe")
    noise_steps: int = parameter(default=250, doc="descent steps on the noise", low=1)
    noise_step: float = parameter(default=0.008, doc="size of such a step", unit="radius", above=0)
    restarts: int = parameter(
        default=1, doc="starts, of which the one with the lowest loss over the set is kept", low=1
    )
    start: Literal["uniform", "gaussian"] = parameter(
        default="uniform", doc="first noise: in the ball, or of that standard deviation and cut to the ball"
    )
    batch: int = parameter(default=128, doc="batch size", unit="images", low=1)

    def victims(self) -> Sequence[Target]:
        """Return the one network."""
        return (self.victim,)

    def passes(self, count: int) -> Mapping[Target, float]:
        """Return the descent steps on every image, each restart."""
        return {self.victim: count * self.restarts * self.noise_steps}

    def make(self, images: Images, labels: torch.Tensor, context: Context) -> torch.Tensor:
        """Descend batch by batch, the whole set once a restart."""
        network = context.network(self.victim, trained=True)
        towards = (labels + 1) % context.classes
        sweep = torch.split(torch.arange(len(labels), device=labels.device), self.batch)
        best, trial = (kit.blank(images, self.radius) for _ in range(2))
        lowest, total = torch.tensor([torch.inf, 0.0], dtype=torch.float64)
        if kept := context.kept():
            best.copy_(kept["best"])
            trial.copy_(kept["trial"])
            lowest, total = kept["losses"]
        for step in context.steps(self.restarts * len(sweep)):
            place = step % len(sweep)
            x, y = images[sweep[place]], towards[sweep[place]]
            with kit.frozen(network):
                found = kit.to_steps(self.descend(network, x, y, context), self.radius)
                if self.restarts > 1:
                    total = total + self.loss(network, x + found.to(x) / 255, y).double().cpu()
            trial[sweep[place].to(trial.device)] = found.to(trial.device)
            if place == len(sweep) - 1:
                if self.restarts == 1 or total < lowest:
                    lowest = total
                    best.copy_(trial)
                total = torch.zeros_like(total)
            context.keep(best=best, trial=trial, losses=torch.stack([lowest, total]))
        return best

    def descend(
        self, network: torch.nn.Module, images: torch.Tensor, towards: torch.Tensor, context: Context
    ) -> torch.Tensor:
        """Return the noise of a batch against a frozen network; the last iterate."""
        radius, delta = self.radius, torch.empty_like(images)
        delta = delta.normal_(0, radius) if self.start == "gaussian" else delta.uniform_(-radius, radius)
        delta = delta.clamp(-radius, radius)
        for _ in range(self.noise_steps):
            delta.requires_grad_(True)
            seen = context.augment((images + delta).clamp(0, 1))
            losses, at_seen = kit.slope(network, seen, towards)
            (slope,) = torch.autograd.grad(seen, delta, at_seen)
            delta = (delta.detach() - self.noise_step * radius * slope.sign()).clamp(-radius, radius)
        context.tell(losses.mean())
        return delta

    def loss(self, network: torch.nn.Module, images: torch.Tensor, towards: torch.Tensor) -> torch.Tensor:
        """Return the summed cross-entropy towards the wanted classes."""
        return torch.nn.functional.cross_entropy(network(images.clamp(0, 1)), towards, reduction="sum")


@uebench.hookimpl
def register_noises() -> list[type[Noise]]:
    """Register this module's noise."""
    return [TAP]
