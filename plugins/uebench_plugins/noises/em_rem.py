"""EM as in the REM code base: optimised on augmented views, so the noise is not aligned with the stored image."""

from __future__ import annotations

import torch

import uebench
from uebench import Context, Images, Noise, UserError, kit, parameter
from uebench_plugins.noises.surrogate import SurrogateNoise


class EMREM(SurrogateNoise):
    """Minimise the surrogate's loss on a cropped and flipped view, and store this noise for the original image.

    This generator made the EM columns of the REM and SEM papers, with one difference: here the surrogate learns from
    the noise in 8 bits, as it is released; their surrogate learns in half precision and rounds when it saves. With
    `rounded=false` the surrogate learns from the noise in single precision, which is rounded once, at release. If the
    augmentation changes the size (ImageNet), the set must be stored in the size of the view, as the published noise
    was.
    """

    name = "em-rem"
    paper = (
        "Fu et al., Robust Unlearnable Examples, ICLR 2022, arXiv 2203.14533: released code of its EM baseline, "
        "settings of table 5"
    )

    rounded: bool = parameter(default=True, doc="the surrogate learns from the noise in 8 bits", later=True)

    def make(self, images: Images, labels: torch.Tensor, context: Context) -> torch.Tensor:
        """Alternate between descent on the noise of an augmented view and one standard training step on that view."""
        view_shape, shape = tuple(context.augment(images[:1]).shape[1:]), tuple(images.shape[1:])
        if view_shape != shape:
            raise UserError(
                f"noise {self.name}: augmented views have shape {view_shape}, images {shape}; "
                "store the data set in the size of the views"
            )
        network = context.network(self.surrogate)
        step = self.noise_step * self.radius

        def descend(x: torch.Tensor, y: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
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
