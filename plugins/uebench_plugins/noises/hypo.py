"""HYPO: hypocritical noise, which makes a clean network more confident in the true class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch

import uebench
from uebench import Budget, Context, Images, Noise, Target, UserError, kit, parameter


class HYPO(Noise):
    """Minimise the loss of x + noise for its true class, on a network trained on the clean set.

    This is P2 of the paper: no augmentation, a start at the clean image, and the last iterate. An L2 radius is for
    3x32x32 values and grows with the square root of their number, so the noise per value is the same for images of any
    size. APBench uses ResNet-18 and, for L-inf, half the step: `norm=linf,radius=8/255,noise_step=0.1,victim=resnet18`.
    """

    name = "hypo"
    paper = (
        "Tao et al., Better Safe Than Sorry: Preventing Delusive Adversaries with Adversarial Training, NeurIPS 2021; "
        "released code"
    )
    streams: ClassVar[bool] = True

    radius: float = parameter(
        default=0.5,
        doc="budget: L-inf, or L2 norm of a 3x32x32 image, scaled to other sizes",
        unit="pixel range",
        above=0,
    )
    norm: Literal["l2", "linf"] = parameter(default="l2", doc="norm of the budget")
    victim: Target = parameter(default="vgg16", doc="network trained on the clean set, with the recipe of the run")
    noise_steps: int = parameter(default=100, doc="descent steps on the noise", low=1)
    noise_step: float = parameter(default=0.2, doc="size of a descent step", unit="radius", above=0)
    batch: int = parameter(default=256, doc="batch size", unit="images", low=1)

    def __post_init__(self) -> None:
        """Raise `UserError` if the norm is L-inf and the radius is too large for it."""
        super().__post_init__()
        if self.norm == "linf" and self.radius >= 0.5:
            raise UserError(f"{self.name}: in linf, radius must be below 0.5, such as 8/255, not {self.radius:g}")

    def budget(self, shape: Sequence[int]) -> Budget:
        """Return the L-inf ball, or the L2 ball for images of this shape."""
        scale = math.sqrt(math.prod(shape) / (3 * 32 * 32)) if self.norm == "l2" else 1
        return Budget(self.norm, scale * self.radius)

    def victims(self) -> Sequence[Target]:
        """Return the network on which the noise is optimised."""
        return (self.victim,)

    def passes(self, count: int) -> Mapping[Target, float]:
        """Return the number of network passes: the descent steps on all images."""
        return {self.victim: count * self.noise_steps}

    def make(self, images: Images, labels: torch.Tensor, context: Context) -> torch.Tensor:
        """Optimise the noise batch by batch."""
        network, limit = context.network(self.victim, trained=True), self.budget(images.shape[1:])
        delta = kit.blank(images, limit)
        if kept := context.kept():
            delta.copy_(kept["delta"])
        batches = torch.split(torch.arange(len(labels), device=labels.device), self.batch)
        for step in context.steps(len(batches)):
            index = batches[step]
            x = images[index]
            protected = kit.pgd(
                network,
                x,
                labels[index],
                radius=limit.radius,
                steps=self.noise_steps,
                step=self.noise_step * limit.radius,
                norm=self.norm,
                ascend=False,
                random_start=False,
            )
            delta[index.to(delta.device)] = kit.to_steps(protected - x, limit).to(delta.device)
            context.keep(delta=delta)
        return delta


@uebench.hookimpl
def register_noises() -> list[type[Noise]]:
    """Register this module's noise."""
    return [HYPO]
