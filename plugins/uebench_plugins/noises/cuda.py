"""CUDA: convolution-based unlearnable data, every image filtered by the filter of its class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch

import uebench
from uebench import Budget, Context, Images, Noise, UserError, kit, parameter

BATCH = 128


class CUDA(Noise):
    """Filter each image with a random filter of its class, all channels alike, and divide it by its largest value.

    The weights of a filter are uniform in [0, blur]; one weight, chosen at random, is 1, so the filter also shifts the
    image. The padding is black. The noise has no bound. The released code truncates to 8 bits; here the image is
    rounded. A black image stays black; the released code divides by 0 there. For ImageNet-100 the authors use
    `size=9,blur=0.06`.
    """

    name = "cuda"
    paper = "Sadasivan et al., CUDA: Convolution-based Unlearnable Datasets, CVPR 2023; released code"
    streams: ClassVar[bool] = True
    radius: ClassVar[float] = math.inf  # type: ignore[misc]

    blur: float = parameter(default=0.3, doc="upper bound of a filter's weights, except the weight of 1", low=0)
    size: int = parameter(default=3, doc="side of a filter, odd", unit="pixels", low=1)

    def __post_init__(self) -> None:
        """Raise `UserError` for a filter without a middle pixel."""
        super().__post_init__()
        if self.size % 2 == 0:
            raise UserError(f"{self.name}: size must be odd, not {self.size}")

    def budget(self, shape: Sequence[int]) -> Budget:
        """Return a budget without a bound."""
        return Budget("none")

    def make(self, images: Images, labels: torch.Tensor, context: Context) -> torch.Tensor:
        """Draw the filters, and return what filtering changes."""
        filters = self.filters(context)
        limit = self.budget(images.shape[1:])
        delta = kit.blank(images, limit)
        for index in torch.split(torch.arange(len(labels), device=labels.device), BATCH):
            x = images[index]
            change = filtered(x, filters[labels[index]]) - x
            delta[index.to(delta.device)] = kit.to_steps(change, limit).to(delta.device)
        return delta

    def filters(self, context: Context) -> torch.Tensor:
        """Return a filter for every class, float32 (classes, size, size)."""
        weights = self.blur * torch.rand(context.classes, self.size**2, device=context.device)
        one = torch.randint(self.size**2, (context.classes, 1), device=context.device)
        return weights.scatter(1, one, 1.0).view(-1, self.size, self.size)


def filtered(images: torch.Tensor, filters: torch.Tensor) -> torch.Tensor:
    """Return images (b, c, h, w) correlated with filters (b, s, s), one an image, over their largest values."""
    count, channels = images.shape[:2]
    kernels = filters.repeat_interleave(channels, 0)[:, None]
    each = images.flatten(0, 1)[None]
    seen = torch.nn.functional.conv2d(each, kernels, padding="same", groups=count * channels).view_as(images)
    brightest: torch.Tensor = seen.amax((1, 2, 3), keepdim=True)
    return seen / brightest.clamp(min=torch.finfo(seen.dtype).tiny)


@uebench.hookimpl
def register_noises() -> list[type[Noise]]:
    """Register this module's noise."""
    return [CUDA]
