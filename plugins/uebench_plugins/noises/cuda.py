"""CUDA: convolution-based unlearnable data; each image is filtered with the filter of its class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch

import uebench
from uebench import Budget, Context, Images, Noise, UserError, kit, parameter

BATCH = 128


class CUDA(Noise):
    """Filter all channels of an image with one random filter of its class, then divide it by its largest value.

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
        """Raise `UserError` if the size is even, because such a filter has no middle pixel."""
        super().__post_init__()
        if self.size % 2 == 0:
            raise UserError(f"{self.name}: size must be odd, not {self.size}")

    def budget(self, shape: Sequence[int]) -> Budget:
        """Return a budget without a bound."""
        return Budget("none")

    def make(self, images: Images, labels: torch.Tensor, context: Context) -> torch.Tensor:
        """Draw the filters and return the difference between filtered and clean images."""
        filters = self.draw_filters(context)
        limit = self.budget(images.shape[1:])
        delta = kit.blank(images, limit)
        for index in torch.split(torch.arange(len(labels), device=labels.device), BATCH):
            x = images[index]
            change = filter_images(x, filters[labels[index]]) - x
            delta[index.to(delta.device)] = kit.to_steps(change, limit).to(delta.device)
        return delta

    def draw_filters(self, context: Context) -> torch.Tensor:
        """Draw one filter per class, float32 (classes, size, size)."""
        weights = self.blur * torch.rand(context.classes, self.size**2, device=context.device)
        position = torch.randint(self.size**2, (context.classes, 1), device=context.device)
        return weights.scatter(1, position, 1.0).view(-1, self.size, self.size)


def filter_images(images: torch.Tensor, filters: torch.Tensor) -> torch.Tensor:
    """Correlate images (b, c, h, w) with one filter each (b, s, s), and divide each result by its largest value."""
    count, channels = images.shape[:2]
    kernels = filters.repeat_interleave(channels, 0)[:, None]
    planes = images.flatten(0, 1)[None]
    result = torch.nn.functional.conv2d(planes, kernels, padding="same", groups=count * channels).view_as(images)
    brightest: torch.Tensor = result.amax((1, 2, 3), keepdim=True)
    return result / brightest.clamp(min=torch.finfo(result.dtype).tiny)


@uebench.hookimpl
def register_noises() -> list[type[Noise]]:
    """Register this module's noise."""
    return [CUDA]
