"""Images and noises in 8 bits and as floats: conversion, rounding within a budget, batches, and the random crop."""

from __future__ import annotations

import math
from typing import Any

import torch

from uebench.components.interfaces import Budget, Images

VALUES = 2**22
"""Values that are rounded in L2 at once: the calculation needs about ten copies in float64."""


def to_float(images: torch.Tensor) -> torch.Tensor:
    """Convert uint8 pixels to float32 in [0, 1]."""
    return images.float() / 255


def to_bytes(images: torch.Tensor) -> torch.Tensor:
    """Round float pixels in [0, 1] to the nearest uint8 value."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def to_steps(delta: torch.Tensor, budget: Budget | float) -> torch.Tensor:
    """Round a noise (b, c, h, w) to whole steps of 1/255 within its budget; int8 if it is wide enough, otherwise int16.

    A number as budget means an L-inf radius. A noise outside its L-inf or L2 ball is projected to the ball. Each value
    is rounded to the nearest step, with two exceptions. A value that would leave the L-inf ball is rounded towards
    zero. If an image would leave its L2 ball, the values that rounding moved farthest from zero are rounded towards
    zero. Values are limited to 255 steps, which already move any pixel to the end of its range.
    """
    if not isinstance(budget, Budget):
        budget = Budget("linf", budget)
    scaled = (delta * 255).clamp(-255, 255)
    steps = scaled.round()
    if budget.norm == "linf":
        limit = math.floor(min(budget.radius, 1) * 255 + 1e-6)
        return steps.clamp(-limit, limit).to(torch.int8 if limit < 128 else torch.int16)
    if budget.norm == "l2":
        chunks = torch.split(scaled.flatten(1), max(1, VALUES // math.prod(delta.shape[1:])))
        steps = torch.cat([_round_in_l2_ball(chunk.double(), budget.radius * 255) for chunk in chunks]).view_as(delta)
    return steps.to(torch.int16)


def _round_in_l2_ball(scaled: torch.Tensor, radius: float) -> torch.Tensor:
    """Project rows (b, d) to an L2 ball and round them to whole numbers inside it; equal values stay equal."""
    max_norm, norm = radius * (1 + 1e-6), scaled.norm(dim=1, keepdim=True)
    scaled = scaled * torch.where(norm > max_norm, radius / norm, 1)
    nearest, lower = scaled.round(), scaled.trunc()
    saving = nearest.square() - lower.square()
    moved = (nearest - scaled).abs() * (saving > 0)
    farthest, order = moved.sort(dim=1, descending=True)
    total = nearest.square().sum(1, keepdim=True)
    fits = total - saving.gather(1, order).cumsum(1) <= max_norm**2
    threshold = farthest.gather(1, fits.int().argmax(1, keepdim=True))  # values moved this far go towards zero
    threshold = torch.where(total <= max_norm**2, torch.inf, threshold)
    return torch.where((saving > 0) & (moved >= threshold), lower, nearest)


def quantise(delta: torch.Tensor, radius: float) -> torch.Tensor:
    """Round a noise to the nearest multiples of 1/255 within [-radius, radius]; takes and returns float32."""
    return to_steps(delta, radius).to(delta.dtype) / 255


class Pixels:
    """A set of uint8 images (n, c, h, w) on the device or on the host; indexing gives float batches on the device."""

    def __init__(self, kept: torch.Tensor, device: torch.device) -> None:
        self.kept, self.device, self.shape = kept, device, kept.shape

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: Any) -> torch.Tensor:
        """Return the images of an index tensor or a slice as float32 (b, c, h, w) on the device."""
        if isinstance(index, torch.Tensor):
            index = index.to(self.kept.device)
        return to_float(self.kept[index].to(self.device, non_blocking=True))


def blank(images: Images, budget: Budget | float) -> torch.Tensor:
    """Return a noise of zeros for a set, in the integer type of `to_steps`, on the device that stores the set."""
    stored = images.kept if isinstance(images, Pixels) else torch.as_tensor(images)
    return torch.zeros(images.shape, dtype=to_steps(torch.zeros(1, 1), budget).dtype, device=stored.device)


def crop_and_flip(
    images: torch.Tensor, pad: int, flip: bool | torch.Tensor = True, reflect: bool = False
) -> torch.Tensor:
    """Pad images (b, c, h, w), crop them at random and mirror each with probability 1/2.

    Crops and mirrors are drawn per image; the result is differentiable in the images. The padding is black, or the
    reflected border with `reflect`; `pad` must then be smaller than the image. `flip` is False for no mirroring, or a
    tensor (b,) that says which images to mirror.
    """
    count, channels, height, width = images.shape
    device = images.device
    top, left = torch.randint(0, 2 * pad + 1, (2, count, 1), device=device)
    columns = torch.arange(width, device=device).expand(count, width)
    if flip is not False:
        mirrored = torch.rand(count, 1, device=device) < 0.5 if flip is True else flip.view(count, 1)
        columns = torch.where(mirrored, width - 1 - columns, columns)
    rows = torch.arange(height, device=device) + top
    pixels = rows[:, :, None] * (width + 2 * pad) + (columns + left)[:, None, :]
    index = pixels.view(count, 1, -1).expand(count, channels, -1)
    padded = torch.nn.functional.pad(images, (pad,) * 4, mode="reflect" if reflect else "constant")
    return padded.flatten(2).gather(2, index).view_as(images)
