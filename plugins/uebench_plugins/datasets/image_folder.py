"""Lists pictures that lie in one folder per class, and decodes them to 8-bit RGB; for the sources that read folders."""

from __future__ import annotations

import errno
import itertools
import math
import os
import tempfile
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from uebench import Split, UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""File extensions of the pictures that can be read."""
THREADS = min(8, os.cpu_count() or 1)
"""Number of decoding threads; each holds a picture in its original size, and Pillow releases the interpreter lock."""

# Large photos are allowed; Pillow still raises an error above twice its limit, for decompression bombs.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class Unreadable(Exception):
    """A file cannot be read as a picture; the message is the reason."""


class Picture(NamedTuple):
    """A file, the number of its class, and its name in results: `class/name`."""

    path: Path
    label: int
    name: str


def list_visible(folder: Path) -> list[Path]:
    """Return the paths in a folder sorted by name, without hidden ones; an empty list if there is no folder."""
    try:
        return sorted((path for path in folder.iterdir() if path.name[0] != "."), key=lambda path: path.name)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror}") from None


def list_classes(root: Path) -> list[str]:
    """Return the names of the class folders, sorted."""
    return [path.name for path in list_visible(root) if path.is_dir()]


def is_picture(path: Path) -> bool:
    """Return whether a file has the extension of a picture."""
    return path.suffix.lower() in EXTENSIONS


def name_pictures(folder: Path) -> dict[str, Path]:
    """Return the pictures of a class in the order of file names, by stem, or by file name where two stems are equal."""
    paths = [path for path in list_visible(folder) if is_picture(path) and not path.is_dir()]
    counts = Counter(path.stem for path in paths) + Counter(path.name for path in paths)
    return {path.name if counts[path.stem] > 1 else path.stem: path for path in paths}


@lru_cache(maxsize=256)
def _name_pictures_cached(folder: Path, changed: int) -> dict[str, Path]:
    """Return the pictures of a class; `changed`, the folder's modification time, makes the cache notice changes."""
    return name_pictures(folder)


def find_picture(root: Path, name: str) -> Path | None:
    """Return the path of the picture `class/name`, or None; the listing of each class folder is cached."""
    label, _, key = name.partition("/")
    try:
        return _name_pictures_cached(root / label, (root / label).stat().st_mtime_ns).get(key)
    except OSError:
        return None


def list_pictures(owner: str, root: Path, classes: list[str], limit: int = 0) -> list[Picture]:
    """Return the pictures of some classes, alternating between them; raises `UserError` for an empty class."""
    columns = []
    for label, name in enumerate(classes):
        column = [Picture(path, label, f"{name}/{file}") for file, path in name_pictures(root / name).items()]
        if not column:
            extensions = ", ".join(EXTENSIONS)
            raise UserError(f"dataset {owner}: class {root / name} holds no image; known extensions are {extensions}")
        columns.append(column)
    rows = itertools.zip_longest(*columns)
    return [picture for row in rows for picture in row if picture][: limit or None]


def read_picture(path: Path) -> Image.Image:
    """Return a picture upright in its original size, as RGB, or as RGBA if it has transparency; raises `Unreadable`."""
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode[0] in "IF":
                image = _convert_to_8_bits(image)
            is_transparent = image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info
            return image.convert("RGBA" if is_transparent else "RGB")
    except (MemoryError, UnidentifiedImageError) as error:
        raise Unreadable("too large" if isinstance(error, MemoryError) else "not a picture") from None
    except Exception as error:  # on damaged files Pillow raises SyntaxError, struct.error and other types
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise Unreadable(" ".join(reason.split())) from None


def _convert_to_8_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey to 8 bits; Pillow would clip it."""
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ValueError("32-bit pixels have no agreed range; save it with 8 or 16 bits")
    return Image.fromarray(((values.astype(np.int64) + 128) // 257).astype(np.uint8))


def decode_pictures(
    owner: str, pictures: list[Picture], size: int, folder: Path, resized: int = 0
) -> tuple[Split, list[str], list[str]]:
    """Decode pictures to squares; returns them with their labels, names, and a line for each unreadable file.

    A picture is resized to `size` x `size` without keeping its aspect ratio, or to `resized` x `resized`, of which the
    centre is cut. The images are in an unnamed temporary file in `folder`, mapped into memory, since a data set may be
    larger than memory. Raises `UserError` if no picture of a class can be read, or if the disk is full.
    """
    images = _allocate_images(owner, (len(pictures), 3, size, size), folder)
    side = resized or size
    margin = round((side - size) / 2)

    def fill(index: int) -> str:
        try:
            image = read_picture(pictures[index].path).convert("RGB")
        except Unreadable as error:
            return str(error)
        if image.size != (side, side):
            image = image.resize((side, side), Image.Resampling.BILINEAR)
        images[index] = np.asarray(image)[margin : margin + size, margin : margin + size].transpose(2, 0, 1)
        return ""

    with ThreadPoolExecutor(THREADS) as pool:
        reasons = list(pool.map(fill, range(len(pictures))))
    skipped = [f"{picture.path}: {reason}" for picture, reason in zip(pictures, reasons, strict=True) if reason]
    indices = [index for index, reason in enumerate(reasons) if not reason]
    kept = [pictures[index] for index in indices]
    readable = {picture.label for picture in kept}
    for picture, reason in zip(pictures, reasons, strict=True):
        if picture.label not in readable:
            raise UserError(
                f"dataset {owner}: nothing in {picture.path.parent} can be read; {picture.path.name}: {reason}"
            )
    if skipped:
        for position, index in enumerate(indices):
            images[position] = images[index]
    labels = torch.tensor([picture.label for picture in kept], dtype=torch.int64)
    return Split(torch.from_numpy(images)[: len(kept)], labels), [picture.name for picture in kept], skipped


def _allocate_images(owner: str, shape: tuple[int, ...], folder: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return an array in a temporary file, deleted with it; raises `UserError` if the disk lacks space."""
    count = math.prod(shape)
    if not count:
        return np.zeros(shape, np.uint8)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            _reserve(file.fileno(), count)
            return np.memmap(file, np.uint8, "r+", shape=shape)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"dataset {owner}: no room for {count / 1e9:.1f} GB of images in {folder}: {reason}") from None


def _reserve(file: int, count: int) -> None:
    """Reserve the disk space now: a mapped file that lacks space later kills the process."""
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file, 0, count)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # the file system does not support it
            raise
