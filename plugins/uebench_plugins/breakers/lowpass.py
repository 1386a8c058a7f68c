"""Low-pass filters of the 8-bit training images, as in the papers' code: by OpenCV, and the bilateral one as OpenCV 4.

OpenCV's own bilateral filter gives other values from version to version, and between processors.
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
"""Values that the bilateral filter takes at once, which bounds its memory."""


class LowPass(Breaker):
    """What the filters share: an odd window, and 8-bit images."""

    by_image: ClassVar[bool] = True

    size: int = parameter(default=3, doc="side of the window, odd; 1 changes nothing", unit="pixels", low=1, neutral=1)

    def __post_init__(self) -> None:
        """Refuse a window without a middle pixel; raises `UserError`."""
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
        if self.size == 1:
            return images
        return kit.to_float(self.smooth(kit.to_bytes(images)))

    def largest(self, side: int) -> int:
        """Return the largest window for images whose shorter side is `side` pixels."""
        return side

    def smooth(self, images: torch.Tensor) -> torch.Tensor:
        """Return images, uint8 (n, c, h, w), filtered, as whole numbers in 0 .. 255."""
        raise NotImplementedError


class OpenCVFilter(LowPass):
    """What the filters by OpenCV share: images are filtered one by one, on the host."""

    def smooth(self, images: torch.Tensor) -> torch.Tensor:
        """Return images, uint8 (n, c, h, w), filtered."""
        pixels = np.ascontiguousarray(images.permute(0, 2, 3, 1).cpu().numpy())
        filtered = np.empty_like(pixels)
        for index, image in enumerate(pixels):
            filtered[index] = self.smooth_image(image).reshape(image.shape)
        return torch.from_numpy(filtered).permute(0, 3, 1, 2).contiguous().to(images.device)

    def smooth_image(self, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return an image, uint8 (h, w, c), filtered."""
        raise NotImplementedError


class Mean(OpenCVFilter):
    """Replace each value by the mean of a square around it; the border mirrors the inside."""

    name = "lowpass-mean"
    paper = f"box filter, as used in {REM}, table 10"

    def smooth_image(self, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return the means, rounded to the nearest whole number."""
        return cv2.blur(image, (self.size, self.size))


class Gaussian(OpenCVFilter):
    """Weigh a square around each value by the kernel that OpenCV derives from the size, with sigma 0.

    Size 3 is the outer product of [1/4, 1/2, 1/4]. The border mirrors the inside.
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
    """Weigh a disc around each pixel by nearness and by likeness of colour, so that edges stay.

    Likeness falls with the sum of the channels' differences. The border mirrors the inside. About one value of a
    million differs from OpenCV 4.10's by one step of 1/255. Size 1 changes nothing.
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
        """Return the largest disc that mirrored pixels can fill: the published 9 is larger than digits of 8x8."""
        return 2 * side - 1

    def smooth(self, images: torch.Tensor) -> torch.Tensor:
        """Return the weighted means; sums, quotient and rounding (half to even) in float32, in OpenCV's order."""
        height, width = images.shape[-2:]
        count = max(1, VALUES_AT_ONCE // images.shape[1:].numel())
        return torch.cat([self._smooth_part(part, height, width) for part in torch.split(images, count)])

    def _smooth_part(self, images: torch.Tensor, height: int, width: int) -> torch.Tensor:
        reach = self.size // 2
        nearness = _gaussian(range(reach**2 + 1), self.sigma_space)  # by squared distance
        differences = [step**2 for step in range(255 * images.shape[1] + 1)]
        likeness = _gaussian(differences, self.sigma_colour * 255).to(images.device)
        extended = _mirror(images, reach).short()
        total = torch.zeros_like(images, dtype=torch.float32)
        weights = torch.zeros_like(total[:, :1])
        for row, column in product(range(-reach, reach + 1), repeat=2):
            if row**2 + column**2 > reach**2:
                continue
            neighbour = extended[..., reach + row :, reach + column :][..., :height, :width]
            difference = (neighbour - images).abs().sum(1, keepdim=True, dtype=torch.int32)
            weight = (likeness * float(nearness[row**2 + column**2]))[difference]
            weights += weight
            total += weight * neighbour
        return (total * (1 / weights)).round()


def _gaussian(squares: Sequence[int], sigma: float) -> torch.Tensor:
    """Return exp(-square / 2 sigma^2), float32."""
    return torch.tensor([math.exp(square * (-0.5 / (sigma * sigma))) for square in squares], dtype=torch.float32)


def _mirror(images: torch.Tensor, reach: int) -> torch.Tensor:
    """Extend images by `reach` pixels on each side, mirrored about the last pixel, which is not repeated."""
    rows, columns = (
        (side - 1 - (side - 1 - torch.arange(-reach, side + reach).abs()).abs()).to(images.device)
        for side in images.shape[-2:]
    )
    return images.index_select(-2, rows).index_select(-1, columns)


@uebench.hookimpl
def register_breakers() -> list[type[Breaker]]:
    """Register this module's breakers."""
    return [Mean, Gaussian, Median, Bilateral]
