"""SVHN: house numbers from street photographs, downloaded and read by torchvision."""

from __future__ import annotations

from pathlib import Path

import torch

import uebench
from uebench import Dataset, Source, Split, kit, parameter
from uebench_plugins.datasets.downloads import explain_download_errors


class Svhn(Source):
    """73 257 training and 26 032 test images of 32x32 pixels, cropped to one digit; the extra images are not used.

    torchvision checks the md5 of each file before it opens the file.
    """

    name = "svhn"
    paper = "Netzer et al., Reading Digits in Natural Images with Unsupervised Feature Learning, NIPS workshop 2011"

    pad: int = parameter(default=4, doc="padding of the random crop", unit="pixels", low=0)

    def load(self, folder: Path) -> Dataset:
        """Return the images; the first call downloads them into the subfolder `svhn` of `folder`."""
        path = folder / self.name
        return Dataset(_load_split(path, "train"), _load_split(path, "test"), [str(digit) for digit in range(10)])

    def count(self) -> int:
        """Return the number of training images."""
        return 73_257

    def shape(self) -> tuple[int, int, int]:
        """Return the shape of an image."""
        return 3, 32, 32

    def class_count(self) -> int:
        """Return the number of classes."""
        return 10

    def augment(self, images: torch.Tensor) -> torch.Tensor:
        """Crop at random after padding with black, without mirroring, since a mirrored digit is not a digit."""
        return kit.crop_and_flip(images, self.pad, flip=False)


def _load_split(path: Path, part: str) -> Split:
    """Return the images of a part, `train` or `test`."""
    from torchvision import datasets

    with explain_download_errors(Svhn.name, path, *datasets.SVHN.split_list[part]):
        data = datasets.SVHN(path, split=part, download=True)
    return Split(torch.from_numpy(data.data).contiguous(), torch.from_numpy(data.labels))


@uebench.hookimpl
def register_datasets() -> list[type[Source]]:
    """Register this module's data source."""
    return [Svhn]
