"""What EM, REM and SEM share: a surrogate network that is trained alongside the noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch

from uebench import Context, Images, Noise, Recipe, Target, kit, parameter


class SurrogateNoise(Noise):
    """A noise made against a surrogate in training; the defaults are the settings of REM, section 5.1 and table 5."""

    streams: ClassVar[bool] = True

    surrogate: Target = parameter(default="resnet18", doc="surrogate network")
    noise_steps: int = parameter(default=10, doc="descent steps on the noise, each time", low=1)
    noise_step: float = parameter(default=0.2, doc="size of such a step", unit="radius", above=0)
    steps: int = parameter(default=5000, doc="surrogate training steps", unit="batches", low=1)
    batch: int = parameter(default=128, doc="batch size", unit="images", low=1)
    lr: float = parameter(default=0.1, doc="surrogate's highest learning rate", above=0)
    schedule: Literal["step", "one-cycle", "constant"] = parameter(
        default="step", doc="surrogate's learning-rate schedule"
    )

    def alternate(
        self, images: Images, labels: torch.Tensor, context: Context, network: torch.nn.Module, **how: Any
    ) -> torch.Tensor:
        """Go through `kit.alternate` with this noise's radius and surrogate training."""
        recipe = Recipe(steps=self.steps, batch=self.batch, lr=self.lr, schedule=self.schedule)
        return kit.alternate(images, labels, context, network=network, recipe=recipe, radius=self.radius, **how)

    def passes(self, count: int) -> Mapping[Target, float]:
        """Return the passes of each iteration and of the last pass over the set."""
        noise, surrogate = self.step_passes()
        learned = self.steps * min(self.batch, count)
        return {self.surrogate: learned * (noise + surrogate) + count * noise}

    def step_passes(self) -> tuple[int, int]:
        """Return the passes of an image in one noise step and in one surrogate step."""
        return self.noise_steps, 1
