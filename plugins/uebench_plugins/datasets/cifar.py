"""CIFAR-10 and CIFAR-100: small photographs, downloaded and read by torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch

import uebench
from uebench import Dataset, Source, Split, kit, parameter
from uebench_plugins.datasets.downloads import explain_download_errors


class Cifar10(Source):
    """50 000 training and 10 000 test images of 32x32 pixels in 10 classes.

    The published batches are pickled. torchvision checks the md5 of the archive and of each file in it before it opens
    a file, so only the published files are unpickled.
    """

    name = "cifar10"
    paper = "Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009; augmentation as in REM"
    reader: ClassVar[str] = "CIFAR10"

    pad: int = parameter(default=4, doc="padding of the random crop", unit="pixels", low=0)

    def load(self, folder: Path) -> Dataset:
        """Return the images; the first call downloads them into the subfolder `name` of `folder`."""
        from torchvision import datasets

        path, reader = folder / self.name, getattr(datasets, self.reader)
        with explain_download_errors(self.name, path, reader.url, reader.filename, reader.tgz_md5):
            train, test = (reader(path, train=is_train, download=True) for is_train in (True, False))
        return Dataset(_build_split(train), _build_split(test), list(train.classes))

    def count(self) -> int:
        """Return the number of training images."""
        return 50_000

    def shape(self) -> tuple[int, int, int]:
        """Return the shape of an image."""
        return 3, 32, 32

    def class_count(self) -> int:
        """Return the number of classes."""
        return 10

    def augment(self, images: torch.Tensor) -> torch.Tensor:
        """Flip half of the images, and crop at random after padding with black."""
        return kit.crop_and_flip(images, self.pad)

    def mirrors(self) -> bool:
        """Return True: a mirrored photograph keeps its class."""
        return True


class Cifar100(Cifar10):
    """50 000 training and 10 000 test images of 32x32 pixels in 100 classes, read in the same way as `cifar10`."""

    name = "cifar100"
    reader = "CIFAR100"

    def class_count(self) -> int:
        """Return the number of classes."""
        return 100


def _build_split(data: Any) -> Split:
    """Return the split that a data set of torchvision holds."""
    images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
    return Split(images, torch.tensor(data.targets, dtype=torch.int64))


@uebench.hookimpl
def register_datasets() -> list[type[Source]]:
    """Register this module's data sources."""
    return [Cifar10, Cifar100]
