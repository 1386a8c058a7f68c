"""ImageNet-100 as in the papers: the first 100 classes of ILSVRC2012, read from a folder."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import torch

import uebench
from uebench import Dataset, Source, UserError, parameter
from uebench_plugins.datasets import image_folder
from uebench_plugins.datasets.crops import random_resized_crop

WORDNET = re.compile(r"n\d{8}")
PARTS = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}
"""The folders, and the archive to unpack into each."""
LANDMARKS = {0: "n01440764", 99: "n01855672"}
"""Classes that distinguish this subset from other subsets: tench and goose."""


class Imagenet100(Source):
    """ILSVRC2012 classes 0 to 99 in the order of WordNet ids: `train/<id>/*` and `val/<id>/*`.

    This is not the ImageNet-100 of contrastive learning, whose classes were drawn at random. Training images are
    stored as squares, aspect ratio not kept, and cropped at random when a network sees them, clean and protected ones
    alike; the published clean column crops the original files instead, so its pipeline is not that of the protected
    columns (REM, section 5.1 and code).
    """

    name = "imagenet100"
    paper = "Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 2015; subset and crop of REM"

    path: str = parameter(doc="folder that holds train/ and val/", identity=False)
    size: int = parameter(default=256, doc="side of the stored training images", unit="pixels", low=1)
    crop: int = parameter(default=224, doc="side of the images that a network gets", unit="pixels", low=1)
    classes: int = parameter(default=100, doc="number of classes, from the first", unit="classes", low=2, high=1000)
    train_limit: int = parameter(default=0, doc="maximum number of training images; 0 means all", unit="images", low=0)
    test_limit: int = parameter(default=0, doc="maximum number of test images; 0 means all", unit="images", low=0)

    def load(self, folder: Path) -> Dataset:
        """Return the images; test images are resized to 8/7 of the crop (256 for 224), and their centre is cut."""
        train, test, classes = self._files()
        train_split, names, skipped = image_folder.decode_pictures(self.name, train, self.size, folder)
        test_split, _, skipped_test = image_folder.decode_pictures(
            self.name, test, self.crop, folder, resized=round(self.crop * 8 / 7)
        )
        return Dataset(train_split, test_split, classes, names, [*skipped, *skipped_test])

    def fingerprint(self, folder: Path) -> str:
        """Return a hash of the names and sizes of the files; their content is known, and reading 16 GB takes long."""
        digest = hashlib.sha256()
        train, test, _ = self._files()
        for part, files in (("train", train), ("val", test)):
            for path, _, name in files:
                size = path.stat().st_size if path.exists() else -1
                digest.update(f"{part}/{name}/{size}/".encode(errors="surrogateescape"))
        return digest.hexdigest()

    def count(self) -> int:
        """Return the number of training files."""
        return len(self._files()[0])

    def shape(self) -> tuple[int, int, int]:
        """Return the shape of a cropped image."""
        return 3, self.crop, self.crop

    def class_count(self) -> int:
        """Return the number of classes."""
        return self.classes

    def augment(self, images: torch.Tensor) -> torch.Tensor:
        """Crop a random box, resize it without antialiasing, and flip half of the images.

        The papers made their noise in this way; the crops for training their networks had antialiasing.
        """
        crops = random_resized_crop(images, self.crop, scale=(0.08, 1), ratio=(3 / 4, 4 / 3))
        mirrored = torch.rand(len(crops), 1, 1, 1, device=crops.device) < 0.5
        return torch.where(mirrored, crops.flip(3), crops)

    def mirrors(self) -> bool:
        """Return True: a mirrored photograph keeps its class."""
        return True

    def _files(self) -> tuple[list[image_folder.Picture], list[image_folder.Picture], list[str]]:
        """Return the files of both parts and the class names; raises `UserError` if the classes are wrong."""
        root = Path(self.path).expanduser()
        train, val = (self._list_classes(root / part, archive) for part, archive in PARTS.items())
        wanted = train[: self.classes]
        for index, expected in LANDMARKS.items():
            if index < len(wanted) and wanted[index] != expected:
                raise UserError(
                    f"dataset imagenet100: class {index} in {root / 'train'} is {wanted[index]}, not {expected}: these "
                    f"are not the first {self.classes} classes of ILSVRC2012"
                )
        missing = sorted(set(wanted) - set(val))
        if missing:
            raise UserError(f"dataset imagenet100: {root / 'val'} has no folder {missing[0]}, which train/ has")
        train_files = image_folder.list_pictures(self.name, root / "train", wanted, self.train_limit)
        return train_files, image_folder.list_pictures(self.name, root / "val", wanted, self.test_limit), wanted

    def _list_classes(self, folder: Path, archive: str) -> list[str]:
        """Return the class folders of a part; raises `UserError` if there are too few."""
        classes = [name for name in image_folder.list_classes(folder) if WORDNET.fullmatch(name)]
        if len(classes) >= self.classes:
            return classes
        if not folder.is_dir():
            problem = "is missing"
        elif not classes and any(image_folder.is_picture(path) for path in image_folder.list_visible(folder)):
            problem = "holds images directly, not in one folder per class"
        else:
            problem = f"has {len(classes)} class folders, not {self.classes}"
        raise UserError(
            f"dataset imagenet100: {folder} {problem}; unpack {archive} there, into one folder per class, named by its "
            f"WordNet id such as {LANDMARKS[0]}"
        )


@uebench.hookimpl
def register_datasets() -> list[type[Source]]:
    """Register this module's data source."""
    return [Imagenet100]
