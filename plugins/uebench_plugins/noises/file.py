"""Noise that another program made: an array or PNG files on disk, checked against the data set."""

from __future__ import annotations

import hashlib
import math
import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import safetensors
import torch
from PIL import Image

import uebench
from uebench import Budget, Context, Images, Noise, UserError, kit, parameter

PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt")
CONVERSION = (  # torch refuses anything but tensors and plain values, so no code of the file runs
    'python -c "import sys, torch, safetensors.torch as s; a, b = sys.argv[1:]; '
    "x = torch.load(a, 'cpu', weights_only=True); s.save_file({{'delta': x.detach().contiguous()}}, b)\" {old} {new}"
)
TYPES = ("float64", "float32", "float16", "bfloat16", "uint8", "int8", "int16", "int32", "int64")
CHUNK = 2**22
"""Number of values that are processed at once."""


class FileNoise(Noise):
    """Read a noise or protected images that another program made: `.npy`, `.safetensors`, or a folder of PNG files.

    Arrays are (n, c, h, w) or (n, h, w, c) in the order of the data set. Signed integers are a noise in steps of 1/255,
    and uint8 values are images. Floats in pixel range [0, 1] are a noise if a value is negative or no value is above
    the radius, otherwise images. Labels in a safetensors file must equal those of the data set. A folder has
    `<class>/<name>.png`, as `uebench export` writes it (the folder that it made, or `images` in it), or `<number>.png`
    with the index of the image in the data set, from 0. Images that differ from the clean ones by more than the budget
    are refused: they are from another data set, or in another order. Pickle files are never loaded.
    """

    name = "file"
    paper = "none; the program that made the file"
    streams: ClassVar[bool] = True

    path: str = parameter(doc="file or folder", identity=False)
    title: str = parameter(default="", doc="name in results; by default the file name", identity=False)
    content: str = parameter(default="", doc="start of the SHA-256 of the content; computed from the file")
    radius: float = parameter(default=8 / 255, doc="budget of the noise", unit="pixel range, or pixels for l0", above=0)
    norm: Literal["linf", "l2", "l0", "none"] = parameter(default="linf", doc="norm of the budget")
    kind: Literal["auto", "noise", "images"] = parameter(default="auto", doc="what the values are")
    tensor: str = parameter(default="", doc="name of the array in a safetensors file that has several")

    def __post_init__(self) -> None:
        """Add the hash of the content to the parameters, so that other contents give another noise."""
        super().__post_init__()
        if self.norm == "linf" and self.radius > 1:
            raise UserError(f"noise file: radius must be at most 1 in linf, not {self.radius:g}")
        if self.full_path.suffix.lower() in PICKLES:
            new = self.full_path.with_suffix(".safetensors")
            command = CONVERSION.format(old=shlex.quote(str(self.full_path)), new=shlex.quote(str(new)))
            raise UserError(
                f"noise file: {self.path} is a pickle, which can run any code when it is read; save the array as "
                f".npy where it was made, or convert a tensor that torch saved: {command}"
            )
        digest = _hash_content(self.full_path)
        if not digest.startswith(self.content):
            raise UserError(f"noise file: {self.path} has content {digest[:16]}, not {self.content}")
        object.__setattr__(self, "content", digest[:16])

    @property
    def full_path(self) -> Path:
        """Return the path of the file or folder, with `~` expanded; of what `uebench export` wrote, its pictures."""
        path = Path(os.path.expanduser(self.path))
        exported = (path / "manifest.json").is_file() and (path / "images").is_dir()
        return path / "images" if exported else path

    def alias(self) -> str:
        """Return the title, or the file's name."""
        return self.title or Path(os.path.expanduser(self.path)).resolve().stem

    def budget(self, shape: Sequence[int]) -> Budget:
        """Return the budget that the parameters declare."""
        return Budget(self.norm, math.inf if self.norm == "none" else self.radius)

    def make(self, images: Images, labels: torch.Tensor, context: Context) -> torch.Tensor:
        """Read the array or the PNG files, and return their difference from the clean images."""
        if not _hash_content(self.full_path).startswith(self.content):
            raise UserError(f"noise file: {self.path} has changed since this run began")
        shape = tuple(images.shape)
        rows: _Array | _PngFolder = (
            _PngFolder(self.full_path, context.names, shape)
            if self.full_path.is_dir()
            else _Array(self.full_path, self.tensor, shape, labels)
        )
        kind = self.kind if self.kind != "auto" else self.guess_kind(rows, shape)
        delta = kit.blank(images, Budget("none"))
        for part in _split_rows(shape):
            values = (rows[part].to(context.device) * (255 if "float" in rows.type else 1)).round()
            if not bool(values.isfinite().all()):
                raise UserError(f"noise file: {self.path} holds NaN or infinite values")
            if float(values.abs().max()) > 255:
                raise UserError(f"noise file: {self.path} holds values beyond the pixel range; divide them by 255")
            if kind == "images":
                values -= (images[part] * 255).round()
                self.check_radius(values, part, images, context.names)
            delta[part] = values.to(delta)
        return delta

    def guess_kind(self, rows: _Array | _PngFolder, shape: tuple[int, ...]) -> str:
        """Return "noise" or "images", decided from the type of the values and, for floats, from their range."""
        if "float" not in rows.type:
            return "images" if rows.type == "uint8" else "noise"
        ranges = [rows[part].aminmax() for part in _split_rows(shape)]
        lowest, highest = min(float(limits.min) for limits in ranges), max(float(limits.max) for limits in ranges)
        return "noise" if lowest < 0 or highest <= self.radius + 1e-6 else "images"

    def check_radius(self, change: torch.Tensor, part: slice, images: Images, names: Sequence[str]) -> None:
        """Raise `UserError` if an image exceeds the L-inf radius; name a clean image that it matches, if any."""
        limit = self.radius * 255 + 1e-3
        exceeds = change.abs().amax((1, 2, 3)) > limit
        if self.norm != "linf" or not bool(exceeds.any()):
            return
        first = int(exceeds.int().argmax())
        image = images[part][first] * 255 + change[first]
        hint = "it matches no other image: is the radius too small, or is this another data set?"
        for part in _split_rows(tuple(images.shape)):
            distance = (images[part] * 255 - image).abs().amax((1, 2, 3))
            if float(distance.min()) <= limit:
                hint = f"it matches {names[part.start + int(distance.argmin())]}: the order is different"
                break
        raise UserError(
            f"noise file: image {part.start + first} of {self.path} differs from {names[part.start + first]} by "
            f"{float(change[first].abs().max()):g}/255, over {self.radius * 255:g}/255; {hint}"
        )


class _PngFolder:
    """PNG files, named after the images of the data set or their indices, read as rows (b, c, h, w)."""

    type = "uint8"

    def __init__(self, folder: Path, names: Sequence[str], shape: tuple[int, ...]) -> None:
        self.shape = shape
        numbered = {int(path.stem): path for path in folder.glob("*.png") if path.stem.isdecimal()}
        if numbered and set(numbered) != set(range(len(names))):
            numbers = f"{len(numbered)} pictures from {min(numbered)}.png to {max(numbered)}.png"
            raise UserError(f"noise file: {folder} holds {numbers}, not {len(names)} from 0.png")
        self.paths = [numbered.get(index, folder / f"{name}.png") for index, name in enumerate(names)]
        missing = next((path for path in self.paths if not path.is_file()), None)
        if missing:
            raise UserError(f"noise file: {missing} is missing; the data set has {len(names)} training images")

    def __getitem__(self, part: slice) -> torch.Tensor:
        return torch.from_numpy(np.stack([self.read(path) for path in self.paths[part]])).double()

    def read(self, path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Return a picture (c, h, w); raises `UserError` if it is damaged or has another size."""
        channels, height, width = self.shape[1:]
        try:
            with Image.open(path) as opened:
                image = opened.convert("L" if channels == 1 else "RGB")
        except Exception as error:  # on damaged files Pillow raises many types of error
            raise UserError(f"noise file: cannot read {path}: {error}") from None
        if image.size != (width, height):
            raise UserError(f"noise file: {path} is {image.width}x{image.height}, not {width}x{height}")
        return np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1)


class _Array:
    """An array on disk, read in parts as rows (b, c, h, w) and checked against the data set."""

    values: Any

    def __init__(self, path: Path, tensor: str, expected: tuple[int, ...], labels: torch.Tensor) -> None:
        if path.suffix not in (".npy", ".safetensors"):
            raise UserError(f"noise file: {path} must be .npy, .safetensors or a folder of PNG pictures")
        try:
            npy = path.suffix == ".npy"
            self.values = np.lib.format.open_memmap(path, mode="r") if npy else _open_tensor(path, tensor, labels)
            shape = self.values.shape if npy else tuple(self.values.get_shape())
            self.channels_last = shape != expected and len(shape) == 4 and (shape[0], shape[3], *shape[1:3]) == expected
            if shape != expected and not self.channels_last:
                raise UserError(f"noise file: {path} has shape {shape}; the data set's is {expected}")
            self.type = self.values.dtype.name if npy else str(self.values[:1].dtype).removeprefix("torch.")
        except (OSError, ValueError, safetensors.SafetensorError) as error:
            raise UserError(f"noise file: cannot read {path}: {' '.join(str(error).split())}") from None
        if self.type not in TYPES:
            raise UserError(f"noise file: {path} holds {self.type}, not floats, uint8 or signed integers")

    def __getitem__(self, part: slice) -> torch.Tensor:
        values = self.values[part]
        rows = values.double() if isinstance(values, torch.Tensor) else torch.from_numpy(np.array(values, np.float64))
        return rows.permute(0, 3, 1, 2) if self.channels_last else rows


def _open_tensor(path: Path, name: str, labels: torch.Tensor) -> Any:
    """Open an array of a safetensors file for reading in slices; its labels, if any, must equal the data set's."""
    file: Any = safetensors.safe_open(path, "pt")
    arrays = [key for key in file.keys() if key != "labels"]  # noqa: SIM118  not a dictionary
    if len(arrays) < len(file.keys()) and file.get_tensor("labels").tolist() != labels.tolist():
        raise UserError(f"noise file: the labels in {path} are not those of the data set in its order")
    if (name or len(arrays) == 1) and (name or arrays[0]) in arrays:
        return file.get_slice(name or arrays[0])
    problem = f"no array called {name!r}" if name else f"{len(arrays)} arrays"
    raise UserError(f"noise file: {path} has {problem}; set tensor=... to one of {', '.join(arrays)}")


def _split_rows(shape: tuple[int, ...]) -> Iterator[slice]:
    """Return slices of the images with about `CHUNK` values each."""
    size = max(1, CHUNK // math.prod(shape[1:]))
    return (slice(first, min(first + size, shape[0])) for first in range(0, shape[0], size))


def _hash_content(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and contents of the pictures in a folder."""
    digest = hashlib.sha256()
    try:
        if not path.is_dir():
            with open(path, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        pictures = sorted(path.rglob("*.png"))
        for picture in pictures:
            digest.update(os.fsencode(picture.relative_to(path).as_posix()) + b"/")
            digest.update(hashlib.sha256(picture.read_bytes()).digest())
    except OSError as error:
        raise UserError(f"noise file: cannot read {path}: {error.strerror}") from None
    if not pictures:
        raise UserError(f"noise file: {path} holds no picture called *.png")
    return digest.hexdigest()


@uebench.hookimpl
def register_noises() -> list[type[Noise]]:
    """Register this module's noise."""
    return [FileNoise]
