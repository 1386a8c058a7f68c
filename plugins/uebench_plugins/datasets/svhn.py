"""SVHN: house numbers from street photographs, through torchvision and its download."""

from __future__ import annotations

from pathlib import Path

import torch

import uebench
from uebench import Dataset, Source, Split, kit, parameter
from uebench_plugins.datasets.downloads import fetching


class Svhn(Source):
    """73 257 training and 26 032 test images of 32x32 pixels, cropped to one digit; the extra images are not used.

    torchvision compares the md5 of the files with its own before it opens one.
    """

    name = "svhn"
    paper = "Netzer et al., Reading Digits in Natural Images with Unsupervised Feature Learning, NIPS workshop 2011"

    pad: int = parameter(default=4, doc="padding of the random crop", unit="pixels", low=0)

    def load(self, folder: Path) -> Dataset:
        """Return the images, downloaded on first use into a folder of its own."""
        place = folder / self.name
        return Dataset(_split(place, "train"), _split(place, "test"), [str(digit) for digit in range(10)])

    def count(self) -> int:
        """Return the number of training images."""
        return 73_257

    def augment(self, images: torch.Tensor) -> torch.Tensor:
        """Crop at random after padding with black; a mirrored digit is no digit."""
        return kit.crop_and_flip(images, self.pad, flip=False)


def _split(place: Path, part: str) -> Split:
    from torchvision import datasets

    with fetching(Svhn.name, place, *datasets.SVHN.split_list[part]):
        read = datasets.SVHN(place, split=part, download=True)
    return Split(torch.from_numpy(read.data).contiguous(), torch.from_numpy(read.labels))


@uebench.hookimpl
def register_datasets() -> list[type[Source]]:
    """Register this module's data source."""
    return [Svhn]
