"""Plasma fractals: random maps that are smooth at large scales and rough at small ones."""

from __future__ import annotations

import torch


def plasma(shape: torch.Size, roughness: torch.Tensor) -> torch.Tensor:
    """Return maps (b, c, h, w) in [0, 1] by the diamond-square algorithm, for `roughness` (b,) in [0, 1].

    The maps are on the device of `roughness`. The algorithm starts from four random corners. Each doubling sets the
    centres of the squares, then those of their sides, to the mean of their neighbours. At the first doubling the mean
    is exact; k doublings later it is mixed with a random value of weight roughness ** k. This follows kornia, which the
    released code of UEraser uses; for images that are not square, kornia starts from more than four corners.
    """
    count, channels, height, width = shape
    doublings = max(max(height, width) - 2, 0).bit_length()
    size = 2**doublings
    # every node has its random value from the start; its doubling mixes it with the mean
    nodes = torch.rand(count, channels, size + 1, size + 1, device=roughness.device)
    share = 1 - roughness.view(-1, 1, 1, 1, 1) ** torch.arange(doublings, device=roughness.device)
    # the mean of a side takes in its ends, then one middle of a square, then the other: the fourth neighbour, or the
    # third at the border, where one is missing
    last = torch.full((size, 1), 1 / 4, device=roughness.device)
    last[0].fill_(1 / 3)
    for doubling in range(doublings):
        side, half = size >> doubling, size >> doubling + 1
        mixed = share[..., doubling] if doubling else 1.0
        ways = nodes, nodes.mT  # along the rows, and along the columns
        means = [torch.lerp(grid[..., ::side, :-1:side], grid[..., ::side, side::side], 0.5) for grid in ways]
        middle = torch.lerp(means[0][..., :-1, :], means[0][..., 1:, :], 0.5)
        nodes[..., half::side, half::side].lerp_(middle, mixed)
        for grid, mean in zip(ways, means, strict=True):
            middles = grid[..., half::side, half::side]
            mean[..., 1:, :].lerp_(middles, 1 / 3)
            mean[..., :-1, :].lerp_(middles, last[: 2**doubling])
            grid[..., ::side, half::side].lerp_(mean, mixed)
    return nodes[..., :height, :width]
