"""Images in folders, one per class: a data set of one's own."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes

import uebench
from uebench import Dataset, Source, Split, UserError, kit, parameter


class Folder(Source):
    """`train/<class>/*` and `test/<class>/*`, decoded once to 8-bit RGB of one size.

    Images of another size are resized to a square, aspect ratio not kept. A limit takes the same number of
    images from every class, in the order of their names.
    """

    name = "folder"
    paper = "none; the layout of torchvision's ImageFolder"

    path: str = parameter(doc="folder that holds train/ and test/", identity=False)
    title: str = parameter(
        default="", doc="what results call the data set; the folder's name where empty", identity=False
    )
    size: int = parameter(default=32, doc="side of the square images", unit="pixels", low=1)
    train_limit: int = parameter(default=0, doc="training images at most; 0 is all", unit="images", low=0)
    test_limit: int = parameter(default=0, doc="test images at most; 0 is all", unit="images", low=0)
    pad: int = parameter(default=4, doc="padding of the random crop", unit="pixels", low=0)
    flip: bool = parameter(default=True, doc="mirror half of the training images")

    def alias(self) -> str:
        """Return the data set's title."""
        return self.title or Path(self.path).resolve().name

    def load(self, folder: Path) -> Dataset:
        """Return the decoded images; the engine caches them under their fingerprint."""
        train, test, classes = self._files()
        return Dataset(
            train=Split(self._decode(train), torch.tensor([label for _, label in train])),
            test=Split(self._decode(test), torch.tensor([label for _, label in test])),
            classes=classes,
        )

    def fingerprint(self, folder: Path) -> str:
        """Return a hash of every file that is used, with its name: the same images are the same data set anywhere."""
        whole = hashlib.sha256()
        train, test, _ = self._files()
        for part, files in (("train", train), ("test", test)):
            for path, label in files:
                whole.update(f"{part}/{label}/{path.name}/".encode())
                whole.update(hashlib.sha256(path.read_bytes()).digest())
        return whole.hexdigest()

    def augment(self, images: Tensor) -> Tensor:
        """Crop at random after padding with black, and flip."""
        return kit.crop_and_flip(images, self.pad, self.flip)

    def _files(self) -> tuple[list[tuple[Path, int]], list[tuple[Path, int]], list[str]]:
        """Return the image files of both parts with their labels, and the class names."""
        train, classes = self._part("train", self.train_limit)
        test, others = self._part("test", self.test_limit)
        if classes != others:
            odd = sorted(set(classes) ^ set(others))
            raise UserError(f"dataset folder: train/ and test/ of {self.path} differ in classes: {', '.join(odd)}")
        return train, test, classes

    def _part(self, part: str, limit: int) -> tuple[list[tuple[Path, int]], list[str]]:
        """Return image files with their labels, alternating between the classes, and the class names."""
        root = Path(self.path).expanduser() / part
        try:
            classes, _ = find_classes(root)
        except FileNotFoundError:
            raise UserError(f"dataset folder: {root} is missing or has no folder per class") from None
        columns = []
        for label, name in enumerate(classes):
            found = sorted(path for path in (root / name).iterdir() if path.suffix.lower() in IMG_EXTENSIONS)
            if not found:
                raise UserError(f"dataset folder: class {root / name} holds no image")
            columns.append([(path, label) for path in found])
        rows = itertools.zip_longest(*columns)
        files = [entry for row in rows for entry in row if entry]
        return files[: limit or None], classes

    def _decode(self, files: list[tuple[Path, int]]) -> Tensor:
        images = np.empty((len(files), self.size, self.size, 3), np.uint8)
        for place, (path, _) in enumerate(files):
            try:
                with Image.open(path) as opened:
                    image = ImageOps.exif_transpose(opened).convert("RGB")
            except (OSError, ValueError, Image.DecompressionBombError) as error:
                raise UserError(f"dataset folder: cannot read {path}: {error}") from None
            if image.size != (self.size, self.size):
                image = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
            images[place] = np.asarray(image)
        return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


@uebench.hookimpl
def register_datasets() -> list[type[Source]]:
    """Register this module's data source."""
    return [Folder]
