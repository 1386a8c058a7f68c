"""Low-pass filters of the training images, by OpenCV on 8-bit images, as the papers' code has them."""

from __future__ import annotations

from typing import Any, ClassVar

import cv2
import numpy as np
import torch

import uebench
from uebench import Breaker, UserError, kit, parameter

REM = "Fu et al., Robust Unlearnable Examples, ICLR 2022"


class LowPass(Breaker):
    """What the filters share: an odd window, and 8-bit images that are filtered one by one on the host."""

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
        pixels = np.ascontiguousarray(kit.to_bytes(images).permute(0, 2, 3, 1).cpu().numpy())
        filtered = np.empty_like(pixels)
        for index, image in enumerate(pixels):
            filtered[index] = self.smooth(image).reshape(image.shape)
        return kit.to_float(torch.from_numpy(filtered).permute(0, 3, 1, 2).contiguous().to(images.device))

    def largest(self, side: int) -> int:
        """Return the largest window for images whose shorter side is `side` pixels."""
        return side

    def smooth(self, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return an image, uint8 (h, w, c), filtered."""
        raise NotImplementedError


class Mean(LowPass):
    """Replace each value by the mean of a square around it; the border mirrors the inside."""

    name = "lowpass-mean"
    paper = f"box filter, as used in {REM}, table 10"

    def smooth(self, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return the means, rounded to the nearest whole number."""
        return cv2.blur(image, (self.size, self.size))


class Gaussian(LowPass):
    """Weigh a square around each value by the kernel that OpenCV derives from the size, with sigma 0.

    Size 3 is the outer product of [1/4, 1/2, 1/4]. The border mirrors the inside.
    """

    name = "lowpass-gaussian"
    paper = f"Gaussian filter, as used in {REM}, table 10"

    def smooth(self, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return the weighted means."""
        return cv2.GaussianBlur(image, (self.size, self.size), 0)


class Median(LowPass):
    """Replace each value by the median of its channel in a square around it; the border repeats its pixels."""

    name = "lowpass-median"
    paper = f"median filter, as used in {REM}, table 10"

    def smooth(self, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return the medians."""
        if image.shape[2] in (1, 3, 4):
            return cv2.medianBlur(image, self.size)
        channels = [np.ascontiguousarray(image[..., index]) for index in range(image.shape[2])]
        return np.stack([cv2.medianBlur(channel, self.size) for channel in channels], axis=2)


class Bilateral(LowPass):
    """Weigh a disc around each pixel by nearness and by likeness of colour, so that edges stay.

    Likeness falls with the sum of the channels' differences. The border mirrors the inside. OpenCV's results differ
    between processors by one step of 1/255 in about one value of a million. Size 1 changes nothing.
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

    def smooth(self, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return the weighted means; raises `UserError` for other than one or three channels."""
        if image.shape[2] not in (1, 3):
            raise UserError(f"{self.name}: images must have one or three channels, not {image.shape[2]}")
        return cv2.bilateralFilter(image, self.size, self.sigma_colour * 255, self.sigma_space)


@uebench.hookimpl
def register_breakers() -> list[type[Breaker]]:
    """Register this module's breakers."""
    return [Mean, Gaussian, Median, Bilateral]
