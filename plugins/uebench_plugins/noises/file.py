"""A noise from elsewhere: an array or pictures on disk, checked against the data set."""

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
CONVERSION = (
    'python -c "import pickle, sys, torch, zipfile, safetensors.torch as s; a, b = sys.argv[1:]; '
    "x = torch.load(a, 'cpu', weights_only=False) if zipfile.is_zipfile(a) else pickle.load(open(a, 'rb')); "
    "s.save_file({{'delta': torch.as_tensor(x).detach().contiguous()}}, b)\" {old} {new}"
)
TYPES = ("float64", "float32", "float16", "bfloat16", "uint8", "int8", "int16", "int32", "int64")
CHUNK = 2**22
"""Number of values that are processed at once."""


class FileNoise(Noise):
    """Read a noise or protected images that another program made: `.npy`, `.safetensors`, or a folder of PNG files.

    Arrays are (n, c, h, w) or (n, h, w, c) in the order of the data set. Signed integers are a noise in steps of 1/255,
    and uint8 values are images. Floats in pixel range [0, 1] are a noise if a value is negative or no value is above
    the radius, otherwise images. Labels in a safetensors file must equal those of the data set. A folder has
    `<class>/<name>.png`, as `uebench export` writes it, or `<number>.png` with the index of the image in the data set,
    from 0. Images that differ from the clean ones by more than the budget are refused: they are other images, or in
    another order. Nothing is unpickled.
    """

    name = "file"
    paper = "none; whatever made the file"
    streams: ClassVar[bool] = True

    path: str = parameter(doc="file or folder", identity=False)
    title: str = parameter(default="", doc="name in results; default the name of the file", identity=False)
    content: str = parameter(default="", doc="start of the SHA-256 of the content; filled in")
    radius: float = parameter(default=8 / 255, doc="budget of the noise", unit="pixel range, or pixels for l0", above=0)
    norm: Literal["linf", "l2", "l0", "none"] = parameter(default="linf", doc="norm of the budget")
    kind: Literal["auto", "noise", "images"] = parameter(default="auto", doc="what the values are")
    tensor: str = parameter(default="", doc="name of the array in a safetensors file that has several")

    def __post_init__(self) -> None:
        """Add the hash of the content to the parameters, so that another file is another noise."""
        super().__post_init__()
        if self.norm == "linf" and self.radius > 1:
            raise UserError(f"noise file: radius must be at most 1 in linf, not {self.radius:g}")
        if self.place.suffix.lower() in PICKLES:
            new = self.place.with_suffix(".safetensors")
            line = CONVERSION.format(old=shlex.quote(str(self.place)), new=shlex.quote(str(new)))
            raise UserError(
                f"noise file: {self.path} is a pickle, which can run any code when it is read; where you trust it, "
                f"convert it yourself: {line}"
            )
        found = _digest(self.place)
        if not found.startswith(self.content):
            raise UserError(f"noise file: {self.path} has content {found[:16]}, not {self.content}")
        object.__setattr__(self, "content", found[:16])

    @property
    def place(self) -> Path:
        """The file or folder."""
        return Path(os.path.expanduser(self.path))

    def alias(self) -> str:
        """Return the title, or the file's name."""
        return self.title or self.place.resolve().stem

    def budget(self, shape: Sequence[int]) -> Budget:
        """Return the budget that was declared."""
        return Budget(self.norm, math.inf if self.norm == "none" else self.radius)

    def make(self, images: Images, labels: torch.Tensor, context: Context) -> torch.Tensor:
        """Read the array or the pictures, and return what they add to the clean images."""
        if not _digest(self.place).startswith(self.content):
            raise UserError(f"noise file: {self.path} has changed since this run began")
        shape = tuple(images.shape)
        rows: _Array | _Pictures = (
            _Pictures(self.place, context.names, shape)
            if self.place.is_dir()
            else _Array(self.place, self.tensor, shape, labels)
        )
        kind = self.kind if self.kind != "auto" else self.guess(rows, shape)
        delta = kit.blank(images, Budget("none"))
        for part in _parts(shape):
            found = (rows[part].to(context.device) * (255 if "float" in rows.type else 1)).round()
            if not bool(found.isfinite().all()):
                raise UserError(f"noise file: {self.path} holds values that are no numbers")
            if float(found.abs().max()) > 255:
                raise UserError(f"noise file: {self.path} holds values beyond the pixel range; divide them by 255")
            if kind == "images":
                found -= (images[part] * 255).round()
                self.compare(found, part, images, context.names)
            delta[part] = found.to(delta)
        return delta

    def guess(self, rows: _Array | _Pictures, shape: tuple[int, ...]) -> str:
        """Return what the values must be, from their type, and for floats from their range."""
        if "float" not in rows.type:
            return "images" if rows.type == "uint8" else "noise"
        ranges = [rows[part].aminmax() for part in _parts(shape)]
        lowest, highest = min(float(limits.min) for limits in ranges), max(float(limits.max) for limits in ranges)
        return "noise" if lowest < 0 or highest <= self.radius + 1e-6 else "images"

    def compare(self, change: torch.Tensor, part: slice, images: Images, names: Sequence[str]) -> None:
        """Refuse images that differ from the clean ones by more than an L-inf radius; say which they might be."""
        most = self.radius * 255 + 1e-3
        far = change.abs().amax((1, 2, 3)) > most
        if self.norm != "linf" or not bool(far.any()):
            return
        first = int(far.int().argmax())
        there, hint = images[part][first] * 255 + change[first], "it fits no other: a larger radius, or another set?"
        for part in _parts(tuple(images.shape)):
            distance = (images[part] * 255 - there).abs().amax((1, 2, 3))
            if float(distance.min()) <= most:
                hint = f"it fits {names[part.start + int(distance.argmin())]}: the order is another"
                break
        raise UserError(
            f"noise file: image {part.start + first} of {self.path} differs from {names[part.start + first]} by "
            f"{float(change[first].abs().max()):g}/255, over {self.radius * 255:g}/255; {hint}"
        )


class _Pictures:
    """PNG pictures, found by the names of the data set's images or by their numbers, as rows (b, c, h, w)."""

    type = "uint8"

    def __init__(self, folder: Path, names: Sequence[str], shape: tuple[int, ...]) -> None:
        self.shape = shape
        numbered = {int(path.stem): path for path in folder.glob("*.png") if path.stem.isdecimal()}
        if numbered and set(numbered) != set(range(len(names))):
            found = f"{len(numbered)} pictures from {min(numbered)}.png to {max(numbered)}.png"
            raise UserError(f"noise file: {folder} holds {found}, not {len(names)} from 0.png")
        self.paths = [numbered.get(place, folder / f"{name}.png") for place, name in enumerate(names)]
        missing = next((path for path in self.paths if not path.is_file()), None)
        if missing:
            raise UserError(f"noise file: {missing} is missing; the data set has {len(names)} training images")

    def __getitem__(self, part: slice) -> torch.Tensor:
        return torch.from_numpy(np.stack([self.read(path) for path in self.paths[part]])).double()

    def read(self, path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
        channels, height, width = self.shape[1:]
        try:
            with Image.open(path) as opened:
                image = opened.convert("L" if channels == 1 else "RGB")
        except Exception as error:  # on damaged files Pillow raises whatever comes up
            raise UserError(f"noise file: cannot read {path}: {error}") from None
        if image.size != (width, height):
            raise UserError(f"noise file: {path} is {image.width}x{image.height}, not {width}x{height}")
        return np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1)


class _Array:
    """An array on disk, read part by part as rows (b, c, h, w), checked against the data set."""

    values: Any

    def __init__(self, path: Path, tensor: str, wanted: tuple[int, ...], labels: torch.Tensor) -> None:
        if path.suffix not in (".npy", ".safetensors"):
            raise UserError(f"noise file: {path} must be .npy, .safetensors or a folder of PNG pictures")
        try:
            npy = path.suffix == ".npy"
            self.values = np.lib.format.open_memmap(path, mode="r") if npy else _tensor(path, tensor, labels)
            shape = self.values.shape if npy else tuple(self.values.get_shape())
            self.last = shape != wanted and len(shape) == 4 and (shape[0], shape[3], *shape[1:3]) == wanted
            if shape != wanted and not self.last:
                raise UserError(f"noise file: {path} has shape {shape}; the data set's is {wanted}")
            self.type = self.values.dtype.name if npy else str(self.values[:1].dtype).removeprefix("torch.")
        except (OSError, ValueError, safetensors.SafetensorError) as error:
            raise UserError(f"noise file: cannot read {path}: {' '.join(str(error).split())}") from None
        if self.type not in TYPES:
            raise UserError(f"noise file: {path} holds {self.type}, not floats, uint8 or signed integers")

    def __getitem__(self, part: slice) -> torch.Tensor:
        found = self.values[part]
        found = found.double() if isinstance(found, torch.Tensor) else torch.from_numpy(np.array(found, np.float64))
        return found.permute(0, 3, 1, 2) if self.last else found


def _tensor(path: Path, name: str, labels: torch.Tensor) -> Any:
    """Return one array of a safetensors file, to be read by slices; labels in it must be the data set's."""
    file: Any = safetensors.safe_open(path, "pt")
    arrays = [key for key in file.keys() if key != "labels"]  # noqa: SIM118  no dictionary
    if len(arrays) < len(file.keys()) and file.get_tensor("labels").tolist() != labels.tolist():
        raise UserError(f"noise file: the labels in {path} are not those of the data set in its order")
    if (name or len(arrays) == 1) and (name or arrays[0]) in arrays:
        return file.get_slice(name or arrays[0])
    asked = f"no array called {name!r}" if name else f"{len(arrays)} arrays"
    raise UserError(f"noise file: {path} has {asked}; say tensor=... of {', '.join(arrays)}")


def _parts(shape: tuple[int, ...]) -> Iterator[slice]:
    size = max(1, CHUNK // math.prod(shape[1:]))
    return (slice(first, min(first + size, shape[0])) for first in range(0, shape[0], size))


def _digest(place: Path) -> str:
    """Return the SHA-256 of a file, or of the names and contents of the pictures in a folder."""
    whole = hashlib.sha256()
    try:
        if not place.is_dir():
            with open(place, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        pictures = sorted(place.rglob("*.png"))
        for path in pictures:
            whole.update(os.fsencode(path.relative_to(place).as_posix()) + b"/")
            whole.update(hashlib.sha256(path.read_bytes()).digest())
    except OSError as error:
        raise UserError(f"noise file: cannot read {place}: {error.strerror}") from None
    if not pictures:
        raise UserError(f"noise file: {place} holds no picture called *.png")
    return whole.hexdigest()


@uebench.hookimpl
def register_noises() -> list[type[Noise]]:
    """Register this module's noise."""
    return [FileNoise]
