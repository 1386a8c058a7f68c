"""The random resized crop of ImageNet training, computed on tensors with a separate box per image."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch


class Boxes(NamedTuple):
    """A box per image, in whole pixels, each (b,)."""

    top: torch.Tensor
    left: torch.Tensor
    height: torch.Tensor
    width: torch.Tensor


def random_resized_crop(
    images: torch.Tensor, size: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> torch.Tensor:
    """Cut a random box out of each image (b, c, h, w) and resize it to (b, c, size, size); differentiable.

    For each image the share of the area is drawn from `scale`, and the ratio of width to height from `ratio`.
    """
    return resized_crop(images, draw_boxes(images, scale, ratio), size)


def draw_boxes(images: torch.Tensor, scale: tuple[float, float], ratio: tuple[float, float]) -> Boxes:
    """Draw boxes by the rule of torchvision's RandomResizedCrop: ten attempts, then the largest box in the middle."""
    count, _, height, width = images.shape
    device = images.device
    area = height * width * torch.empty(10, count, device=device).uniform_(*scale)
    aspect = torch.empty(10, count, device=device).uniform_(math.log(ratio[0]), math.log(ratio[1])).exp()
    widths, heights = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first, fits = fits.int().argmax(dim=0, keepdim=True), fits.any(dim=0)
    widths, heights = (sides.gather(0, first)[0] for sides in (widths, heights))
    widths = torch.where(fits, widths, min(width, round(height * ratio[1])))
    heights = torch.where(fits, heights, min(height, round(width / ratio[0])))
    margin = torch.stack([height - heights, width - widths])
    corner = (torch.rand(2, count, device=device) * (margin + 1)).floor().minimum(margin)
    top, left = torch.where(fits, corner, (margin / 2).floor())
    return Boxes(top, left, heights, widths)


def resized_crop(images: torch.Tensor, boxes: Boxes, size: int) -> torch.Tensor:
    """Resize a box of each image (b, c, h, w) to (b, c, size, size): bilinear, no antialiasing.

    Pixels outside the box have no effect. The resize is two matrix products, one per axis. Gathering pixels instead
    would sum gradients on a GPU in an order that changes from run to run.
    """
    rows = _compute_weights(boxes.top, boxes.height, images.shape[2], size).to(images.dtype)
    columns = _compute_weights(boxes.left, boxes.width, images.shape[3], size).to(images.dtype)
    with torch.autocast(images.device.type, enabled=False):  # keep full precision for pixels
        return rows[:, None] @ images @ columns[:, None].mT


def _compute_weights(start: torch.Tensor, length: torch.Tensor, side: int, size: int) -> torch.Tensor:
    """Return the weight of each input pixel of an axis in each output pixel, (b, size, side)."""
    steps = torch.arange(size, device=start.device) + 0.5
    positions = (steps * (length / size)[:, None] - 0.5).clamp(min=0).minimum(length[:, None] - 1)
    pixels = torch.arange(side, device=start.device) - start[:, None]
    return (1 - (positions[:, :, None] - pixels[:, None, :]).abs()).clamp(min=0)
