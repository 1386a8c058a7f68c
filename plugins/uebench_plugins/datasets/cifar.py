"""CIFAR-10 and CIFAR-100: small photographs, through torchvision and its download."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch

import uebench
from uebench import Dataset, Source, Split, kit, parameter
from uebench_plugins.datasets.downloads import fetching


class Cifar10(Source):
    """50 000 training and 10 000 test images of 32x32 pixels in 10 classes.

    The published batches are pickled. torchvision compares the md5 of the archive and of each file in it with its own
    before it opens one, so nothing but those very files is ever unpickled.
    """

    name = "cifar10"
    paper = "Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009; augmentation as in REM"
    reader: ClassVar[str] = "CIFAR10"

    pad: int = parameter(default=4, doc="padding of the random crop", unit="pixels", low=0)

    def load(self, folder: Path) -> Dataset:
        """Return the images, downloaded on first use into a folder of its own."""
        from torchvision import datasets

        place, reader = folder / self.name, getattr(datasets, self.reader)
        with fetching(self.name, place, reader.url, reader.filename, reader.tgz_md5):
            train, test = (reader(place, train=part, download=True) for part in (True, False))
        return Dataset(_split(train), _split(test), list(train.classes))

    def count(self) -> int:
        """Return the number of training images."""
        return 50_000

    def augment(self, images: torch.Tensor) -> torch.Tensor:
        """Flip half of the images, and crop at random after padding with black."""
        return kit.crop_and_flip(images, self.pad)

    def mirrors(self) -> bool:
        """Return that mirrored photographs keep their class."""
        return True


class Cifar100(Cifar10):
    """50 000 training and 10 000 test images of 32x32 pixels in 100 classes; read as `cifar10` is."""

    name = "cifar100"
    reader = "CIFAR100"


def _split(read: Any) -> Split:
    images = torch.from_numpy(read.data).permute(0, 3, 1, 2).contiguous()
    return Split(images, torch.tensor(read.targets, dtype=torch.int64))


@uebench.hookimpl
def register_datasets() -> list[type[Source]]:
    """Register this module's data sources."""
    return [Cifar10, Cifar100]
