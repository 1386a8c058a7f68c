"""Plasma fractals: random maps that are smooth on the large and rough on the small."""

from __future__ import annotations

import torch


def plasma(shape: torch.Size, roughness: torch.Tensor) -> torch.Tensor:
    """Return maps (b, c, h, w) in [0, 1] on the device of `roughness` (b,), which is in [0, 1], by diamond and square.

    Starts from four random corners. Each doubling sets the middles of the squares, then those of the sides, to the mean
    of their neighbours: exactly the first time, and after k more doublings mixed with a random value of weight
    roughness ** k. So does kornia, which the released code of UEraser takes it from; where images are not square, it
    starts from more than four corners.
    """
    count, channels, height, width = shape
    weight, roughness = torch.zeros_like(roughness).view(-1, 1, 1, 1), roughness.view(-1, 1, 1, 1)
    nodes = torch.rand(count, channels, 2, 2, device=roughness.device)
    while nodes.shape[-1] < max(height, width):
        side = 2 * nodes.shape[-1] - 1
        fresh = torch.rand(count, channels, side, side, device=nodes.device)
        finer = torch.zeros_like(fresh)
        finer[..., ::2, ::2] = nodes
        middles = finer[..., 1::2, 1::2]
        middles.copy_(torch.lerp(torch.nn.functional.avg_pool2d(nodes, 2, 1), fresh[..., 1::2, 1::2], weight))
        known = torch.ones_like(finer[:1, :1])
        mean = _cross(finer) / _cross(known)
        for rows, columns in ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2))):
            finer[..., rows, columns] = torch.lerp(mean[..., rows, columns], fresh[..., rows, columns], weight)
        nodes = finer
        weight = roughness if side == 3 else weight * roughness
    return nodes[..., :height, :width]


def _cross(values: torch.Tensor) -> torch.Tensor:
    """Return the sum of the four neighbours of each node; beyond the border there is nothing."""
    wide = torch.nn.functional.pad(values, (1, 1, 1, 1))
    return wide[..., :-2, 1:-1] + wide[..., 2:, 1:-1] + wide[..., 1:-1, :-2] + wide[..., 1:-1, 2:]
