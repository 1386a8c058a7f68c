"""Images and noises in 8 bits and as floats: the ways between them, batches of a set at rest, and the random crop."""

from __future__ import annotations

import math
from typing import Any

import torch

from uebench.components.interfaces import Budget, Images

VALUES = 2**22
"""Values whose rounding in L2 is worked out at once: in float64, sorted, some ten times over."""


def to_float(images: torch.Tensor) -> torch.Tensor:
    """Turn uint8 pixels into float32 in [0, 1]."""
    return images.float() / 255


def to_bytes(images: torch.Tensor) -> torch.Tensor:
    """Round float pixels in [0, 1] to the nearest of uint8."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def to_steps(delta: torch.Tensor, budget: Budget | float) -> torch.Tensor:
    """Round a noise (b, c, h, w) to whole steps of 1/255 within its budget; int8 where it suffices, else int16.

    A number is an L-inf radius. A noise outside its L-inf or L2 ball is projected onto it. Each value goes to the
    nearest step, but towards zero where the nearest would leave the L-inf ball; of an image that would leave its L2
    ball, those values that had been moved away from zero by most. What is beyond 255 steps is cut there: that much
    takes any pixel to the end of its range.
    """
    if not isinstance(budget, Budget):
        budget = Budget("linf", budget)
    scaled = (delta * 255).clamp(-255, 255)
    steps = scaled.round()
    if budget.norm == "linf":
        most = math.floor(min(budget.radius, 1) * 255 + 1e-6)
        return steps.clamp(-most, most).to(torch.int8 if most < 128 else torch.int16)
    if budget.norm == "l2":
        rows = torch.split(scaled.flatten(1), max(1, VALUES // math.prod(delta.shape[1:])))
        steps = torch.cat([_inside(part.double(), budget.radius * 255) for part in rows]).view_as(delta)
    return steps.to(torch.int16)


def _inside(scaled: torch.Tensor, radius: float) -> torch.Tensor:
    """Project rows (b, d) onto an L2 ball and round them to whole numbers inside it; equal values stay equal."""
    most, norm = radius * (1 + 1e-6), scaled.norm(dim=1, keepdim=True)
    scaled = scaled * torch.where(norm > most, radius / norm, 1)
    nearest, lower = scaled.round(), scaled.trunc()
    saved = nearest.square() - lower.square()
    moved = (nearest - scaled).abs() * (saved > 0)
    farthest, order = moved.sort(dim=1, descending=True)
    total = nearest.square().sum(1, keepdim=True)
    fits = total - saved.gather(1, order).cumsum(1) <= most**2
    limit = farthest.gather(1, fits.int().argmax(1, keepdim=True))  # those moved by so much or more go back
    limit = torch.where(total <= most**2, torch.inf, limit)
    return torch.where((saved > 0) & (moved >= limit), lower, nearest)


def quantise(delta: torch.Tensor, radius: float) -> torch.Tensor:
    """Round a noise to multiples of 1/255, to the nearest one within [-radius, radius]; float32 in and out."""
    return to_steps(delta, radius).to(delta.dtype) / 255


class Pixels:
    """A set of uint8 images (n, c, h, w) at rest, here or on the host, that comes as float batches on the device."""

    def __init__(self, kept: torch.Tensor, device: torch.device) -> None:
        self.kept, self.device, self.shape = kept, device, kept.shape

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: Any) -> torch.Tensor:
        """Return the images of an index tensor or a slice, float32 (b, c, h, w) on the device."""
        if isinstance(index, torch.Tensor):
            index = index.to(self.kept.device)
        return to_float(self.kept[index].to(self.device, non_blocking=True))


def blank(images: Images, budget: Budget | float) -> torch.Tensor:
    """Return no noise for a set, in the integers of `to_steps`, where the set is kept."""
    like = images.kept if isinstance(images, Pixels) else torch.as_tensor(images)
    return torch.zeros(images.shape, dtype=to_steps(torch.zeros(1, 1), budget).dtype, device=like.device)


def crop_and_flip(
    images: torch.Tensor, pad: int, flip: bool | torch.Tensor = True, reflect: bool = False
) -> torch.Tensor:
    """Pad (b, c, h, w), crop at random and mirror half of the images; drawn per image, differentiable.

    The padding is black, or the border reflected with `reflect`, for which `pad` must be smaller than the image.
    `flip` may say of each image (b,) whether it is mirrored.
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
