"""Low-pass filters of the training images, in 8 bits and rounded as OpenCV rounds them, which the papers used."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import product
from typing import ClassVar

import torch

import uebench
from uebench import Breaker, UserError, kit, parameter

REM = "Fu et al., Robust Unlearnable Examples, ICLR 2022"
PART = 1 << 22
"""So many values are filtered at a time, which bounds the memory whatever the size of the set."""


class LowPass(Breaker):
    """What the filters share: an odd window, and images of 8 bits, taken in parts."""

    by_image: ClassVar[bool] = True

    size: int = parameter(default=3, doc="side of the window, odd; 1 changes nothing", unit="pixels", low=1, neutral=1)

    def __post_init__(self) -> None:
        """Refuse a window that has no middle; raises `UserError`."""
        super().__post_init__()
        if self.size % 2 == 0:
            raise UserError(f"{self.name}: size must be odd, not {self.size}")

    def filter(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the filtered images, float32 (n, c, h, w), each value a whole number of 255ths.

        Raises `UserError` where the window is too large for the images.
        """
        height, width = images.shape[-2:]
        most = self.largest(min(height, width))
        if self.size > most:
            raise UserError(f"{self.name}: size must be at most {most} on images of {height}x{width}, not {self.size}")
        result = torch.empty_like(images)
        count = max(1, PART // images.shape[1:].numel())
        for start in range(0, len(images), count):
            part = slice(start, start + count)
            result[part] = kit.to_float(self.smooth(kit.to_bytes(images[part])))
        return result

    def largest(self, side: int) -> int:
        """Return the largest window for images whose shorter side is `side` pixels."""
        return side

    def smooth(self, images: torch.Tensor) -> torch.Tensor:
        """Return uint8 images (b, c, h, w) filtered, whole numbers in 0 .. 255 of any type."""
        raise NotImplementedError


class Mean(LowPass):
    """Replace each value by the mean of a square around it; the border mirrors what lies inside of it."""

    name = "lowpass-mean"
    paper = f"box filter, as used in {REM}, table 10"

    def smooth(self, images: torch.Tensor) -> torch.Tensor:
        """Return the means, rounded to the nearest; an odd number of values leaves no mean half-way."""
        total, area = _weigh(images, [1] * self.size), self.size**2
        return (2 * total + area) // (2 * area)


class Gaussian(LowPass):
    """Weigh a square around each value by the kernel that OpenCV takes for a size alone, its sigma 0.

    Size 3 is the outer product of [1/4, 1/2, 1/4]. The border mirrors what lies inside of it.
    """

    name = "lowpass-gaussian"
    paper = f"Gaussian filter, as used in {REM}, table 10"

    def smooth(self, images: torch.Tensor) -> torch.Tensor:
        """Return the weighted means, rounded half up."""
        return (_weigh(images, bell(self.size)) + (1 << 15)) >> 16


class Median(LowPass):
    """Replace each value by the median of its channel in a square around it; pixels of the border repeat beyond it."""

    name = "lowpass-median"
    paper = f"median filter, as used in {REM}, table 10"

    def smooth(self, images: torch.Tensor) -> torch.Tensor:
        """Return the medians."""
        reach = self.size // 2
        rows, columns = (torch.arange(-reach, side + reach).clamp(0, side - 1) for side in images.shape[-2:])
        around = _pick(images, rows, columns)
        height, width = images.shape[-2:]
        return middle(
            [
                around[..., y : y + height, column : column + width]
                for y in range(self.size)
                for column in range(self.size)
            ]
        )


class Bilateral(LowPass):
    """Weigh a disc around each pixel by nearness and by likeness of colour, so that edges stay.

    Likeness falls with the sum of the channels' differences. The border mirrors what lies inside of it. About one value
    in a million is a step of 1/255 off OpenCV's, which itself differs between processors. Size 1 changes nothing, where
    OpenCV would take 3 instead.
    """

    name = "lowpass-bilateral"
    paper = f"Tomasi and Manduchi, Bilateral Filtering for Gray and Color Images, ICCV 1998; settings of {REM}, code"

    size: int = parameter(
        default=9, doc="diameter of the disc, odd; 1 changes nothing", unit="pixels", low=1, neutral=1
    )
    sigma_colour: float = parameter(
        default=75 / 255, doc="deviation of the likeness", unit="pixel range [0, 1], summed over channels", low=1e-6
    )
    sigma_space: float = parameter(default=75.0, doc="deviation of the nearness", unit="pixels", low=1e-6)

    def largest(self, side: int) -> int:
        """Return the largest disc that mirrored pixels can fill, for the published 9 go beyond digits of 8x8."""
        return 2 * side - 1

    def smooth(self, images: torch.Tensor) -> torch.Tensor:
        """Return the weighted means; sums, quotient and rounding (half to even) in float32 go as in OpenCV."""
        reach, (channels, height, width) = self.size // 2, images.shape[1:]
        near = _bell(range(reach**2 + 1), self.sigma_space)  # by squared distance
        alike = _bell([step**2 for step in range(255 * channels + 1)], self.sigma_colour * 255).to(images.device)
        around = _mirror(images, reach).short()
        total = torch.zeros_like(images, dtype=torch.float32)
        weights = torch.zeros_like(total[:, :1])
        for y, column in product(range(-reach, reach + 1), repeat=2):
            if y**2 + column**2 > reach**2:
                continue
            other = around[..., reach + y :, reach + column :][..., :height, :width]
            unlike = (other - images).abs().sum(1, keepdim=True, dtype=torch.int32)
            weight = (alike * float(near[y**2 + column**2]))[unlike]
            weights += weight
            total += weight * other
        return (total * (1 / weights)).round()


def _bell(squares: Sequence[int], sigma: float) -> torch.Tensor:
    """Return exp(-square / 2 sigma^2), float32."""
    return torch.tensor([math.exp(square * (-0.5 / (sigma * sigma))) for square in squares], dtype=torch.float32)


@cache
def bell(size: int) -> tuple[int, ...]:
    """Return OpenCV's Gaussian weights of a size in 256ths; each is rounded with what the one before it left over."""
    small = {1: (256,), 3: (64, 128, 64), 5: (16, 64, 96, 64, 16), 7: (8, 28, 56, 72, 56, 28, 8)}
    if size in small:
        return small[size]
    sigma = 0.3 * ((size - 1) * 0.5 - 1) + 0.8
    exact = [math.exp(-0.5 * (place - size // 2) ** 2 / sigma**2) for place in range(size)]
    half: list[int] = []
    left = 0.0
    for weight in exact[: size // 2]:
        wanted = 256 * weight / sum(exact) + left
        half.append(round(wanted))
        left = wanted - half[-1]
    return (*half, 256 - 2 * sum(half), *half[::-1])


def middle(values: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the median of an odd number of uint8 tensors, value by value, in little memory however many they are.

    Built from the highest bit down: a bit is set where most of the values reach what it would make of the median.
    """
    result = torch.zeros_like(values[0])
    for bit in (128, 64, 32, 16, 8, 4, 2, 1):
        tried = result + bit
        reached = torch.zeros_like(result, dtype=torch.uint8 if len(values) < 256 else torch.int32)
        for value in values:
            reached += value >= tried
        result = torch.where(reached > len(values) // 2, tried, result)
    return result


def _weigh(images: torch.Tensor, weights: Sequence[int]) -> torch.Tensor:
    """Return sums over squares, int32 (b, c, h, w), weighted by the outer product of the weights: exact anywhere."""
    around = _mirror(images, len(weights) // 2).int()
    for axis, side in ((-2, images.shape[-2]), (-1, images.shape[-1])):
        total = torch.zeros_like(around.narrow(axis, 0, side))
        for place, weight in enumerate(weights):
            total.add_(around.narrow(axis, place, side), alpha=weight)
        around = total
    return around


def _mirror(images: torch.Tensor, reach: int) -> torch.Tensor:
    """Extend images by `reach` pixels on each side, mirrored about the last pixel, which is not repeated."""
    rows, columns = (
        side - 1 - (side - 1 - torch.arange(-reach, side + reach).abs()).abs() for side in images.shape[-2:]
    )
    return _pick(images, rows, columns)


def _pick(images: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    return images.index_select(-2, rows.to(images.device)).index_select(-1, columns.to(images.device))


@uebench.hookimpl
def register_breakers() -> list[type[Breaker]]:
    """Register this module's breakers."""
    return [Mean, Gaussian, Median, Bilateral]
