"""Low-pass filters of the 8-bit training images, computed by OpenCV as in the papers' code.

The bilateral filter is computed here, with the results of OpenCV 4: those of OpenCV depend on version and processor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any, ClassVar

import cv2
import numpy as np
import torch

import uebench
from uebench import Breaker, UserError, kit, parameter

REM = "Fu et al., Robust Unlearnable Examples, ICLR 2022"
VALUES_AT_ONCE = 1 << 22
"""Number of values that the bilateral filter processes at once; it limits the memory."""


class LowPass(Breaker):
    """Base class of the filters, which have an odd window and work on 8-bit images."""

    by_image: ClassVar[bool] = True

    size: int = parameter(default=3, doc="side of the window, odd; 1 changes nothing", unit="pixels", low=1, neutral=1)

    def __post_init__(self) -> None:
        """Raise `UserError` if the size is even, because such a window has no middle pixel."""
        super().__post_init__()
        if self.size % 2 == 0:
            raise UserError(f"{self.name}: size must be odd, not {self.size}")

    def filter(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the filtered images, float32 (n, c, h, w), in whole steps of 1/255.

        Raises `UserError` if the window is too large for the images.
        """
        height, width = images.shape[-2:]
        largest = self.largest_size(min(height, width))
        if self.size > largest:
            raise UserError(
                f"{self.name}: size must be at most {largest} on images of {height}x{width}, not {self.size}"
            )
        if self.size == 1:
            return images
        return kit.to_float(self.smooth(kit.to_bytes(images)))

    def largest_size(self, side: int) -> int:
        """Return the largest window for images whose shorter side is `side` pixels."""
        return side

    def smooth(self, images: torch.Tensor) -> torch.Tensor:
        """Return the filtered images, whole numbers in 0 .. 255, for uint8 images (n, c, h, w)."""
        raise NotImplementedError


class OpenCVFilter(LowPass):
    """Base class of the filters that OpenCV computes, image by image on the host."""

    def smooth(self, images: torch.Tensor) -> torch.Tensor:
        """Return the filtered images, uint8 (n, c, h, w)."""
        pixels = np.ascontiguousarray(images.permute(0, 2, 3, 1).cpu().numpy())
        filtered = np.empty_like(pixels)
        for index, image in enumerate(pixels):
            filtered[index] = self.smooth_image(image).reshape(image.shape)
        return torch.from_numpy(filtered).permute(0, 3, 1, 2).contiguous().to(images.device)

    def smooth_image(self, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return the filtered image, uint8 (h, w, c)."""
        raise NotImplementedError


class Mean(OpenCVFilter):
    """Replace each value by the mean of a square around it; the border mirrors the inside."""

    name = "lowpass-mean"
    paper = f"box filter, as used in {REM}, table 10"

    def smooth_image(self, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return the means, rounded to the nearest whole number."""
        return cv2.blur(image, (self.size, self.size))


class Gaussian(OpenCVFilter):
    """Replace each value by the weighted mean of a square around it.

    The weights are the kernel of OpenCV for this size and sigma 0; for size 3, the outer product of [1/4, 1/2, 1/4].
    The border mirrors the inside.
    """

    name = "lowpass-gaussian"
    paper = f"Gaussian filter, as used in {REM}, table 10"

    def smooth_image(self, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return the weighted means."""
        return cv2.GaussianBlur(image, (self.size, self.size), 0)


class Median(OpenCVFilter):
    """Replace each value by the median of its channel in a square around it; the border repeats its pixels."""

    name = "lowpass-median"
    paper = f"median filter, as used in {REM}, table 10"

    def smooth_image(self, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return the medians."""
        if image.shape[2] in (1, 3, 4):
            return cv2.medianBlur(image, self.size)
        channels = [np.ascontiguousarray(image[..., index]) for index in range(image.shape[2])]
        return np.stack([cv2.medianBlur(channel, self.size) for channel in channels], axis=2)


class Bilateral(LowPass):
    """Replace each pixel by the weighted mean of a disc around it; close pixels of similar colour weigh most.

    This keeps edges sharp. The colour difference is the sum over the channels. The border mirrors the inside. About one
    value in a million differs from OpenCV 4.10 by one step of 1/255. Size 1 changes nothing.
    """

    name = "lowpass-bilateral"
    paper = f"Tomasi and Manduchi, Bilateral Filtering for Gray and Color Images, ICCV 1998; settings of {REM}, code"

    size: int = parameter(
        default=9, doc="diameter of the disc, odd; 1 changes nothing", unit="pixels", low=1, neutral=1
    )
    sigma_colour: float = parameter(
        default=75 / 255,
        doc="standard deviation of the colour weight",
        unit="pixel range [0, 1], summed over channels",
        low=1e-6,
    )
    sigma_space: float = parameter(
        default=75.0, doc="standard deviation of the distance weight", unit="pixels", low=1e-6
    )

    def largest_size(self, side: int) -> int:
        """Return the largest disc that mirrored pixels can fill; so the published 9 works on digits of 8x8."""
        return 2 * side - 1

    def smooth(self, images: torch.Tensor) -> torch.Tensor:
        """Return the weighted means, in float32; the order of sums and the rounding (half to even) are OpenCV's."""
        height, width = images.shape[-2:]
        count = max(1, VALUES_AT_ONCE // images.shape[1:].numel())
        return torch.cat([self._smooth_part(part, height, width) for part in torch.split(images, count)])

    def _smooth_part(self, images: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Return the weighted means of a part of the images."""
        disc_radius = self.size // 2
        distance_weights = _gaussian(range(disc_radius**2 + 1), self.sigma_space)  # by squared distance
        squared_differences = [difference**2 for difference in range(255 * images.shape[1] + 1)]
        colour_weights = _gaussian(squared_differences, self.sigma_colour * 255).to(images.device)
        padded = _pad_with_mirror(images, disc_radius).short()
        total = torch.zeros_like(images, dtype=torch.float32)
        weight_sum = torch.zeros_like(total[:, :1])
        for row, column in product(range(-disc_radius, disc_radius + 1), repeat=2):
            if row**2 + column**2 > disc_radius**2:
                continue
            neighbour = padded[..., disc_radius + row :, disc_radius + column :][..., :height, :width]
            difference = (neighbour - images).abs().sum(1, keepdim=True, dtype=torch.int32)
            weight = (colour_weights * float(distance_weights[row**2 + column**2]))[difference]
            weight_sum += weight
            total += weight * neighbour
        return (total * (1 / weight_sum)).round()


def _gaussian(squares: Sequence[int], sigma: float) -> torch.Tensor:
    """Return exp(-square / 2 sigma^2), float32."""
    return torch.tensor([math.exp(square * (-0.5 / (sigma * sigma))) for square in squares], dtype=torch.float32)


def _pad_with_mirror(images: torch.Tensor, width: int) -> torch.Tensor:
    """Pad images by `width` pixels on each side; the outermost pixel is the mirror axis and is not repeated."""
    rows, columns = (
        (side - 1 - (side - 1 - torch.arange(-width, side + width).abs()).abs()).to(images.device)
        for side in images.shape[-2:]
    )
    return images.index_select(-2, rows).index_select(-1, columns)


@uebench.hookimpl
def register_breakers() -> list[type[Breaker]]:
    """Register this module's breakers."""
    return [Mean, Gaussian, Median, Bilateral]
