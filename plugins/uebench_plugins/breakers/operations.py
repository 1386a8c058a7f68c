"""The fourteen operations of RandAugment on batches in which each image has an operation and a strength of its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from uebench import UserError, kit

SHEAR, SHIFT, TURN = 0.3, 150 / 331, 30.0
"""The strongest shear (a tangent), shift (a share of the side) and turn (degrees): Cubuk et al., and torchvision."""
BLEND, BITS = 0.9, 4
"""How far the factors of brightness, colour, contrast and sharpness go from 1, and the bits that posterising takes."""


def apply(images: torch.Tensor, choice: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Apply to each image an operation: images (b, c, h, w) in [0, 1] on any device, what is drawn on the host.

    `choice` (b,) counts in `OPERATIONS`; `strength` (b,) in [-1, 1] has the direction for its sign, where an operation
    has one. torchvision's own classes take one operation for a whole batch. Raises `UserError` where images have
    channels that the operations do not know.
    """
    if images.shape[1] not in (1, 3):
        raise UserError(f"images must have 1 or 3 channels to be augmented by operations, not {images.shape[1]}")
    order = choice.argsort()
    counts = torch.bincount(choice, minlength=len(OPERATIONS)).tolist()
    place, strength = (one.to(images.device, non_blocking=True) for one in (order, strength[order].to(images.dtype)))
    parts = torch.split(images[place], counts), torch.split(strength.view(-1, 1, 1, 1), counts)
    done = [operation(*part) for operation, *part in zip(OPERATIONS.values(), *parts, strict=True) if len(part[0])]
    return torch.empty_like(images).index_copy_(0, place, torch.cat(done))


def _move(kind: str, images: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Shear about the upper left corner, shift by whole pixels, or turn about the middle; nearest pixel, black beyond.

    Coordinates are those of `affine_grid`: -1 and 1 at the borders.
    """
    height, width = images.shape[-2:]
    strength = strength.flatten()
    matrix = torch.eye(2, 3, device=images.device).repeat(len(images), 1, 1)
    if kind == "shear-x":
        matrix[:, 0, 1] = SHEAR * strength * height / width
        matrix[:, 0, 2] = SHEAR * strength * height / width
    elif kind == "shear-y":
        matrix[:, 1, 0] = SHEAR * strength * width / height
        matrix[:, 1, 2] = SHEAR * strength * width / height
    elif kind == "shift-x":
        matrix[:, 0, 2] = -(SHIFT * width * strength).trunc() * 2 / width
    elif kind == "shift-y":
        matrix[:, 1, 2] = -(SHIFT * height * strength).trunc() * 2 / height
    else:
        angle = torch.deg2rad(TURN * strength)
        matrix[:, 0, 0] = matrix[:, 1, 1] = angle.cos()
        matrix[:, 0, 1], matrix[:, 1, 0] = -angle.sin() * height / width, angle.sin() * width / height
    grid = torch.nn.functional.affine_grid(matrix, list(images.shape), align_corners=False)
    return torch.nn.functional.grid_sample(images, grid, mode="nearest", align_corners=False)


def _library(name: str, *arguments: object) -> torch.Tensor:
    """Call an operation of torchvision."""
    from torchvision.transforms.v2 import functional

    done: torch.Tensor = getattr(functional, name)(*arguments)
    return done


def _blend(name: str, images: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Go from the images at factor 0 of a torchvision operation, through the images at 1, to a factor of their own."""
    return torch.lerp(_library(name, images, 0.0), images, 1 + BLEND * strength).clamp(0, 1)


def _posterise(images: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    step = 2 ** (BITS * strength.abs()).round()
    return (kit.to_bytes(images) / step).floor() * step / 255


def _solarise(images: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    return torch.where(images >= 1 - strength.abs(), 1 - images, images)


OPERATIONS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "identity": lambda images, strength: images,
    **{kind: partial(_move, kind) for kind in ("shear-x", "shear-y", "shift-x", "shift-y", "turn")},
    "brightness": partial(_blend, "adjust_brightness"),
    "colour": partial(_blend, "adjust_saturation"),
    "contrast": partial(_blend, "adjust_contrast"),
    "sharpness": partial(_blend, "adjust_sharpness"),
    "posterise": _posterise,
    "solarise": _solarise,
    "autocontrast": lambda images, strength: _library("autocontrast", images),
    "equalise": lambda images, strength: _library("equalize", images),
}
