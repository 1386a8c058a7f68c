"""EM, REM and SEM share this class: noise optimised against a surrogate network that is trained at the same time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch

from uebench import Context, Images, Noise, Recipe, Target, kit, parameter


class SurrogateNoise(Noise):
    """Noise against a surrogate in training; the defaults are the settings of REM, section 5.1 and table 5."""

    streams: ClassVar[bool] = True

    surrogate: Target = parameter(default="resnet18", doc="surrogate network")
    noise_steps: int = parameter(default=10, doc="descent steps per update of the noise", low=1)
    noise_step: float = parameter(default=0.2, doc="size of a descent step", unit="radius", above=0)
    steps: int = parameter(default=5000, doc="surrogate training steps", unit="batches", low=1)
    batch: int = parameter(default=128, doc="batch size", unit="images", low=1)
    lr: float = parameter(default=0.1, doc="highest learning rate of the surrogate", above=0)
    schedule: Literal["step", "one-cycle", "constant"] = parameter(
        default="step", doc="learning-rate schedule of the surrogate"
    )

    def alternate(
        self, images: Images, labels: torch.Tensor, context: Context, network: torch.nn.Module, **options: Any
    ) -> torch.Tensor:
        """Call `kit.alternate` with the radius and the surrogate training of this noise, and return the noise."""
        recipe = Recipe(steps=self.steps, batch=self.batch, lr=self.lr, schedule=self.schedule)
        return kit.alternate(images, labels, context, network=network, recipe=recipe, radius=self.radius, **options)

    def passes(self, count: int) -> Mapping[Target, float]:
        """Return the number of passes in all iterations and in the last noise step over the whole set."""
        noise_passes, surrogate_passes = self.step_passes()
        image_steps = self.steps * min(self.batch, count)
        return {self.surrogate: image_steps * (noise_passes + surrogate_passes) + count * noise_passes}

    def step_passes(self) -> tuple[int, int]:
        """Return the number of passes per image in one noise step and in one surrogate step."""
        return self.noise_steps, 1
