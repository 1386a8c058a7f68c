"""Draws the sheet of pictures of a noise: clean images, protected images, and the amplified noise."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

SHEET_COLUMNS, SIDE, GAP = 10, 64, 2


def make_sheet(clean: torch.Tensor, released: torch.Tensor, labels: torch.Tensor) -> bytes:
    """Return a PNG with one image per class, ten at most, from clean and released images, uint8 (n, c, h, w).

    Rows: clean, protected, and grey plus the noise, amplified until its largest value fills the range. Small images
    are enlarged by a whole factor, pixel for pixel.
    """
    first = [int((labels == label).nonzero()[0, 0]) for label in sorted(set(labels.tolist()))[:SHEET_COLUMNS]]
    clean_pictures, released_pictures = clean[first].cpu(), released[first].cpu()
    noise = released_pictures.int() - clean_pictures.int()
    gain = 127 / max(1, int(noise.abs().max()))
    amplified = (128 + gain * noise).round().to(torch.uint8)
    scale = max(1, SIDE // max(clean_pictures.shape[2:]))
    rows = [
        np.concatenate([_tile(image, scale) for image in row], axis=1)
        for row in (clean_pictures, released_pictures, amplified)
    ]
    content = io.BytesIO()
    Image.fromarray(np.concatenate(rows)).save(content, "PNG", optimize=True)
    return content.getvalue()


def _tile(image: torch.Tensor, scale: int) -> np.ndarray:
    """Return an image (c, h, w) as an RGB array (h, w, 3), enlarged, with a white margin; grey if c is below three."""
    colours = image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)
    array = colours.permute(1, 2, 0).numpy().repeat(scale, 0).repeat(scale, 1)
    return np.pad(array, ((0, GAP), (0, GAP), (0, 0)), constant_values=255)
