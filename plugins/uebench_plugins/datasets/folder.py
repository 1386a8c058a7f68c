"""Images in folders, one per class: the user's own data set, or photos to protect."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import torch

import uebench
from uebench import Dataset, Source, UserError, kit, parameter
from uebench_plugins.datasets import image_folder

FOREIGN = (".heic", ".heif", ".avif", ".gif", ".jp2", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf")
"""File extensions of pictures that cannot be read here; the user gets a line about each such photo."""


class Folder(Source):
    """`train/<class>/*` and `test/<class>/*`, or only `<class>/*`, photos to protect; decoded once to 8-bit RGB.

    Images of another size are resized to a square, aspect ratio not kept. A limit takes the same number of
    images from every class, in the order of their names. Without `train/` there is no test split. Hidden files are
    ignored, and files that cannot be read are listed as skipped.
    """

    name = "folder"
    paper = "none; the layout of torchvision's ImageFolder"

    path: str = parameter(doc="folder that holds train/ and test/", identity=False)
    title: str = parameter(
        default="", doc="name of the data set in results; if empty, the folder's name", identity=False
    )
    size: int = parameter(default=32, doc="side of the square images", unit="pixels", low=1)
    train_limit: int = parameter(default=0, doc="maximum number of training images; 0 means all", unit="images", low=0)
    test_limit: int = parameter(default=0, doc="maximum number of test images; 0 means all", unit="images", low=0)
    pad: int = parameter(default=4, doc="padding of the random crop", unit="pixels", low=0)
    flip: bool = parameter(default=True, doc="mirror half of the training images")

    def alias(self) -> str:
        """Return the data set's title."""
        return self.title or Path(self.path).resolve().name

    def load(self, folder: Path) -> Dataset:
        """Return the decoded images; the engine caches them under their fingerprint."""
        train, test, classes = self._files()
        train_split, names, skipped = image_folder.decode_pictures(self.name, train, self.size, folder)
        test_split, _, skipped_test = image_folder.decode_pictures(self.name, test, self.size, folder)
        return Dataset(
            train_split, test_split, classes, names, [*skipped, *skipped_test, *self._describe_ignored_files(classes)]
        )

    def photo(self, name: str) -> torch.Tensor:
        """Return a training image upright in its original size, uint8 (3, h, w), or (4, h, w) if it has transparency.

        Raises `UserError` if the file is missing or cannot be read.
        """
        path = image_folder.find_picture(self._root(), name)
        if path is None:
            raise UserError(f"dataset folder: {self._root()} holds no image called {name}")
        try:
            return torch.from_numpy(np.array(image_folder.read_picture(path))).permute(2, 0, 1).contiguous()
        except image_folder.Unreadable as error:
            raise UserError(f"dataset folder: cannot read {path}: {error}") from None

    def fingerprint(self, folder: Path) -> str:
        """Return a hash of every file that is used, with its name and class; it does not depend on the path."""
        digest = hashlib.sha256()
        train, test, classes = self._files()
        for part, files in (("train", train), ("test", test)):
            for path, label, _ in files:
                digest.update(os.fsencode(f"{part}/{classes[label]}/{path.name}/"))
                try:
                    digest.update(hashlib.sha256(path.read_bytes()).digest())
                except OSError:
                    digest.update(b"unreadable")
        return digest.hexdigest()

    def count(self) -> int:
        """Return the number of training files."""
        return len(self._files()[0])

    def shape(self) -> tuple[int, int, int]:
        """Return the shape of an image."""
        return 3, self.size, self.size

    def class_count(self) -> int:
        """Return the number of classes."""
        return len(self._files()[2])

    def augment(self, images: torch.Tensor) -> torch.Tensor:
        """Crop at random after padding with black, and flip."""
        return kit.crop_and_flip(images, self.pad, self.flip)

    def mirrors(self) -> bool:
        """Return whether images are to be mirrored."""
        return self.flip

    def _has_only_classes(self) -> bool:
        """Return whether `path` has class folders instead of train/ and test/."""
        root = Path(self.path).expanduser()
        return not any((root / part).is_dir() for part in ("train", "test")) and bool(image_folder.list_classes(root))

    def _root(self) -> Path:
        """Return the folder of the training classes."""
        root = Path(self.path).expanduser()
        return root if self._has_only_classes() else root / "train"

    def _files(self) -> tuple[list[image_folder.Picture], list[image_folder.Picture], list[str]]:
        """Return the image files of both parts with their labels, and the class names."""
        train, classes = self._part(self._root(), self.train_limit)
        if self._has_only_classes():
            return train, [], classes
        test, test_classes = self._part(Path(self.path).expanduser() / "test", self.test_limit)
        if classes != test_classes:
            differing = sorted(set(classes) ^ set(test_classes))
            raise UserError(
                f"dataset folder: train/ and test/ of {self.path} differ in classes: {', '.join(differing)}"
            )
        return train, test, classes

    def _part(self, root: Path, limit: int) -> tuple[list[image_folder.Picture], list[str]]:
        """Return the image files in one root with their labels, and the class names."""
        classes = image_folder.list_classes(root)
        if classes:
            return image_folder.list_pictures(self.name, root, classes, limit), classes
        for parent in (root, root.parent):
            if any(image_folder.is_picture(path) for path in image_folder.list_visible(parent)):
                raise UserError(f"dataset folder: the pictures in {parent} must be in one folder per class")
        raise UserError(f"dataset folder: {root} is missing or has no folder per class")

    def _describe_ignored_files(self, classes: list[str]) -> list[str]:
        """Return a line for each path that looks like a photo but is not read."""
        if not self._has_only_classes():
            return []
        root = self._root()
        unexpected = [
            path
            for path in image_folder.list_visible(root)
            if path.suffix.lower() in FOREIGN or image_folder.is_picture(path)
        ]
        lines = [f"{path}: is not in a class folder" for path in unexpected if path.name not in classes]
        for path in (path for name in classes for path in image_folder.list_visible(root / name)):
            if path.is_dir():
                lines.append(f"{path}: folders within a class are not read")
            elif path.suffix.lower() in FOREIGN:
                lines.append(f"{path}: {path.suffix.lower()} is not read; convert it to .jpg or .png")
        return lines


@uebench.hookimpl
def register_datasets() -> list[type[Source]]:
    """Register this module's data source."""
    return [Folder]
