"""EM: error-minimising noise, made in the frame of the un-augmented image."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

import uebench
from uebench import Context, Noise, Recipe, Target, kit, parameter


class EM(Noise):
    """Minimise the surrogate's loss on x + noise, alternating with the surrogate's own training.

    The loop and the step sizes are those of the REM code base's generator, which made the published EM columns, but
    the noise is made on the image itself; there it is made on a cropped and flipped view and later added to the whole.
    The surrogate learns from augmented images. With `augment=false` it does not, as in the official EM code; the noise
    then fits one position of the image, and a short run's is undone by the target's own cropping and flipping.
    """

    name = "em"
    paper = (
        "Huang et al., Unlearnable Examples: Making Personal Data Unexploitable, ICLR 2021; settings of REM, table 5"
    )

    surrogate: Target = parameter(default="resnet18", doc="surrogate network")
    augment: bool = parameter(default=True, doc="the surrogate learns from augmented images")
    noise_steps: int = parameter(default=10, doc="descent steps on the noise, each time", low=1)
    noise_step: float = parameter(default=0.2, doc="size of such a step", unit="radius", above=0)
    steps: int = parameter(default=5000, doc="surrogate training steps", unit="batches", low=1)
    batch: int = parameter(default=128, doc="batch size", unit="images", low=1)
    lr: float = parameter(default=0.1, doc="surrogate's highest learning rate", above=0)
    schedule: Literal["step", "one-cycle", "constant"] = parameter(
        default="step", doc="surrogate's learning-rate schedule"
    )

    def make(self, images: Tensor, labels: Tensor, context: Context) -> Tensor:
        """Alternate descent on the noise with one plain training step of the surrogate."""
        network = context.network(self.surrogate)

        def descend(x: Tensor, y: Tensor) -> Tensor:
            step = self.noise_step * self.radius
            return kit.pgd(network, x, y, radius=self.radius, steps=self.noise_steps, step=step, ascend=False) - x

        return kit.alternate(
            images,
            labels,
            context,
            network=network,
            recipe=Recipe(steps=self.steps, batch=self.batch, lr=self.lr, schedule=self.schedule),
            radius=self.radius,
            make=descend,
            view=lambda x, y: context.augment(x) if self.augment else x,
        )


@uebench.hookimpl
def register_noises() -> list[type[Noise]]:
    """Register this module's noise."""
    return [EM]
