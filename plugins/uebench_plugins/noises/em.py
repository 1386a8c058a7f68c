"""EM: error-minimising noise, made in the frame of the un-augmented image."""

from __future__ import annotations

import torch

import uebench
from uebench import Context, Images, Noise, kit, parameter
from uebench_plugins.noises.surrogate import SurrogateNoise


class EM(SurrogateNoise):
    """Minimise the surrogate's loss on x + noise, alternating with the surrogate's own training.

    The loop and the step sizes are those of the REM code base's generator, which made the published EM columns, but
    the noise is made on the image itself; there it is made on a cropped and flipped view and later added to the whole.
    The surrogate learns from augmented images. With `augment=false` it does not, as in the official EM code; the noise
    then fits one position of the image, and a short run's is undone by the target's own cropping and flipping.

    The official code takes twenty steps of a tenth of the radius and starts from the image's last noise
    (`noise_steps=20,noise_step=0.1,warm_start=true`), and drops all negative noise when it adds it (`one_sided=true`).
    Its surrogate learns from noise that is not yet rounded to 8 bits; here it learns from what will be released.
    """

    name = "em"
    paper = (
        "Huang et al., Unlearnable Examples: Making Personal Data Unexploitable, ICLR 2021; settings of REM, table 5"
    )

    augment: bool = parameter(default=True, doc="the surrogate learns from augmented images")
    warm_start: bool = parameter(default=False, doc="start from the image's last noise, not from a random one")
    one_sided: bool = parameter(default=False, doc="release the positive part of the noise only")

    def make(self, images: Images, labels: torch.Tensor, context: Context) -> torch.Tensor:
        """Alternate descent on the noise with one plain training step of the surrogate."""
        network = context.network(self.surrogate)

        def descend(x: torch.Tensor, y: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
            found = kit.pgd(
                network,
                x,
                y,
                radius=self.radius,
                steps=self.noise_steps,
                step=self.noise_step * self.radius,
                ascend=False,
                start=x + old if self.warm_start else None,
            )
            return found - x

        delta = self.alternate(
            images,
            labels,
            context,
            network,
            make=descend,
            view=lambda x, y: context.augment(x) if self.augment else x,
        )
        return delta.clamp(min=0) if self.one_sided else delta


@uebench.hookimpl
def register_noises() -> list[type[Noise]]:
    """Register this module's noise."""
    return [EM]
