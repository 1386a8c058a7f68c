"""Handwritten digits that scikit-learn contains: the embedded data set, for runs without a download."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import uebench
from uebench import Dataset, Source, Split, kit, parameter


class Digits(Source):
    """8x8 scans of handwritten digits, grey copied to three channels, with less contrast around mid-grey.

    At full contrast the strokes are so strong that no noise can hide them.
    """

    name = "digits"
    paper = "Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI 1998; bundled with scikit-learn"

    contrast: float = parameter(default=0.5, doc="factor on the original contrast", above=0, high=1)
    test_images: int = parameter(default=500, doc="images in the test split", unit="images", low=1, high=1700)
    pad: int = parameter(default=1, doc="padding of the random crop", unit="pixels", low=0)

    def load(self, folder: Path) -> Dataset:
        """Return the two splits of one fixed draw; nothing is downloaded."""
        from sklearn.datasets import load_digits  # a local import, since it takes a second

        bundled = load_digits()
        grey = 0.5 + self.contrast * (bundled.images / 16 - 0.5)
        images = torch.from_numpy(np.rint(grey * 255).astype(np.uint8))[:, None].repeat(1, 3, 1, 1)
        labels = torch.from_numpy(bundled.target.astype(np.int64))
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        test, train = order[: self.test_images], order[self.test_images :]
        return Dataset(
            train=Split(images[train], labels[train]),
            test=Split(images[test], labels[test]),
            classes=[str(digit) for digit in range(10)],
        )

    def count(self) -> int:
        """Return the number of training images: 1797 without the test images."""
        return 1797 - self.test_images

    def shape(self) -> tuple[int, int, int]:
        """Return the shape of an image."""
        return 3, 8, 8

    def class_count(self) -> int:
        """Return the number of classes."""
        return 10

    def augment(self, images: torch.Tensor) -> torch.Tensor:
        """Shift at random, without mirroring, since a mirrored digit is not a digit."""
        return kit.crop_and_flip(images, self.pad, flip=False)


@uebench.hookimpl
def register_datasets() -> list[type[Source]]:
    """Register this module's data source."""
    return [Digits]
