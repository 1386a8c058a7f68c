"""Compression of the training images: grey, JPEG, fewer bits."""

from __future__ import annotations

import io
from typing import ClassVar

import numpy as np
import torch
from PIL import Image

import uebench
from uebench import Breaker, UserError, kit, parameter

ISS = "Liu et al., Image Shortcut Squeezing, ICML 2023"


class Compression(Breaker):
    """Base class of the compressions, which work on 8-bit images."""

    by_image: ClassVar[bool] = True

    def filter(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the images after compression, float32 (n, c, h, w), in whole steps of 1/255.

        Raises `UserError` if the method does not support this number of channels.
        """
        return kit.to_float(self.compress(kit.to_bytes(images)))

    def compress(self, images: torch.Tensor) -> torch.Tensor:
        """Return uint8 images (n, c, h, w) after compression."""
        raise NotImplementedError

    def _check_channels(self, images: torch.Tensor) -> None:
        """Raise `UserError` unless the images have 1 or 3 channels."""
        if images.shape[1] not in (1, 3):
            raise UserError(f"{self.name}: images must have 1 or 3 channels, not {images.shape[1]}")


class Grayscale(Compression):
    """Give all three channels the luma of ITU-R 601, rounded as in Pillow; images with one channel do not change."""

    name = "grayscale"
    paper = ISS

    def compress(self, images: torch.Tensor) -> torch.Tensor:
        """Return the luma in every channel, rounded; torchvision truncates it on tensors."""
        self._check_channels(images)
        if images.shape[1] == 1:
            return images
        red, green, blue = images.int().unbind(1)
        luma = (19595 * red + 38470 * green + 7471 * blue + (1 << 15)) >> 16
        return luma.to(torch.uint8).unsqueeze(1).expand_as(images)


class Jpeg(Compression):
    """Save each image as JPEG and read it again, with Pillow's default: colour at half the resolution (4:2:0)."""

    name = "jpeg"
    paper = ISS

    quality: int = parameter(default=10, doc="quality of the JPEG files", low=1, high=100)

    def compress(self, images: torch.Tensor) -> torch.Tensor:
        """Return the images decoded from JPEG. Pillow does this; torchvision 0.29 deprecates its JPEG functions."""
        self._check_channels(images)
        is_grey = images.shape[1] == 1
        arrays = (images[:, 0] if is_grey else images.movedim(1, -1)).cpu().numpy()
        decoded = np.empty_like(arrays)
        for index, array in enumerate(arrays):
            file = io.BytesIO()
            Image.fromarray(array).save(file, "JPEG", quality=self.quality)
            with Image.open(file) as jpeg:
                decoded[index] = jpeg
        result = torch.from_numpy(decoded)
        return (result[:, None] if is_grey else result.movedim(-1, 1)).to(images.device)


class BitDepth(Compression):
    """Keep the highest bits of every value, and set the others to zero."""

    name = "bitdepth"
    paper = f"{ISS} (bit depth reduction)"

    bits: int = parameter(default=2, doc="bits to keep", unit="of 8", low=1, high=8, neutral=8)

    def compress(self, images: torch.Tensor) -> torch.Tensor:
        """Return the images posterised."""
        from torchvision.transforms.v2 import functional as T

        posterised: torch.Tensor = T.posterize(images, self.bits)
        return posterised


@uebench.hookimpl
def register_breakers() -> list[type[Breaker]]:
    """Register this module's breakers."""
    return [Grayscale, Jpeg, BitDepth]
