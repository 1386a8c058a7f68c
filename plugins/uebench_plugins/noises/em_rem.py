"""EM as the REM code base makes it: on augmented views, so the noise does not match the position of the image."""

from __future__ import annotations

import torch

import uebench
from uebench import Context, Images, Noise, UserError, kit, parameter
from uebench_plugins.noises.surrogate import SurrogateNoise


class EMREM(SurrogateNoise):
    """Minimise the surrogate's loss on a cropped and flipped view, and store that noise for the image as it is.

    This generator made the EM columns of the REM and SEM papers, with one difference: here the surrogate learns from
    the noise in 8 bits, as it is released; theirs learns in half precision and rounds when it saves. With
    `rounded=false` the surrogate learns from the noise in single precision, which is rounded once, at release. If the
    augmentation changes the size (ImageNet), the set must be stored in the size of the view, as the published noise
    was.
    """

    name = "em-rem"
    paper = "Fu et al., Robust Unlearnable Examples, ICLR 2022: released code of its EM baseline, settings of table 5"

    rounded: bool = parameter(default=True, doc="the surrogate learns from the noise in 8 bits", later=True)

    def make(self, images: Images, labels: torch.Tensor, context: Context) -> torch.Tensor:
        """Alternate descent on the noise of an augmented view with one plain training step on that view."""
        seen, own = tuple(context.augment(images[:1]).shape[1:]), tuple(images.shape[1:])
        if seen != own:
            raise UserError(f"noise {self.name}: augmented views are {seen}, images {own}; store the set in that size")
        network = context.network(self.surrogate)
        step = self.noise_step * self.radius

        def descend(x: torch.Tensor, y: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
            return kit.pgd(network, x, y, radius=self.radius, steps=self.noise_steps, step=step, ascend=False) - x

        return self.alternate(
            images,
            labels,
            context,
            network,
            make=descend,
            view=lambda x, y: x,
            before=context.augment,
            rounded=self.rounded,
        )


@uebench.hookimpl
def register_noises() -> list[type[Noise]]:
    """Register this module's noise."""
    return [EMREM]
