"""Plasma fractals: random maps that are smooth at large scales and rough at small ones."""

from __future__ import annotations

import torch


def plasma(shape: torch.Size, roughness: torch.Tensor) -> torch.Tensor:
    """Return maps (b, c, h, w) in [0, 1] by the diamond-square algorithm, for `roughness` (b,) in [0, 1].

    The maps are on the device of `roughness`. The algorithm starts from four random corners. Each doubling computes the
    centres of the squares, then the midpoints of their sides: the mean of the neighbours, mixed with a random value.
    The random value has weight 0 at the first doubling, and weight roughness ** k at k doublings after it. This follows
    kornia, which the released code of UEraser uses; for images that are not square, kornia starts from more than four
    corners.
    """
    count, channels, height, width = shape
    doublings = max(max(height, width) - 2, 0).bit_length()
    size = 2**doublings
    # All nodes start with their random values; each doubling mixes the means into its nodes.
    nodes = torch.rand(count, channels, size + 1, size + 1, device=roughness.device)
    mean_weights = 1 - roughness.view(-1, 1, 1, 1, 1) ** torch.arange(doublings, device=roughness.device)
    # The mean of a midpoint starts from the two ends of the side, and then adds the centres of the adjacent squares one
    # after the other. Inside, the last centre is the fourth neighbour; at the border it is the third and only centre.
    last_centre_weights = torch.full((size, 1), 1 / 4, device=roughness.device)
    last_centre_weights[0].fill_(1 / 3)
    for doubling in range(doublings):
        side, half = size >> doubling, size >> doubling + 1
        mean_weight = mean_weights[..., doubling] if doubling else 1.0
        orientations = nodes, nodes.mT  # for sides along the rows, and along the columns
        side_means = [
            torch.lerp(grid[..., ::side, :-1:side], grid[..., ::side, side::side], 0.5) for grid in orientations
        ]
        square_means = torch.lerp(side_means[0][..., :-1, :], side_means[0][..., 1:, :], 0.5)
        nodes[..., half::side, half::side].lerp_(square_means, mean_weight)
        for grid, mean in zip(orientations, side_means, strict=True):
            centres = grid[..., half::side, half::side]
            mean[..., 1:, :].lerp_(centres, 1 / 3)
            mean[..., :-1, :].lerp_(centres, last_centre_weights[: 2**doubling])
            grid[..., ::side, half::side].lerp_(mean, mean_weight)
    return nodes[..., :height, :width]
