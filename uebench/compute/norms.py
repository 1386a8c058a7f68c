"""The norms of an attack: the direction of a step, and the projection into the ball."""

from __future__ import annotations

from typing import Literal

import torch

Norm = Literal["linf", "l2", "l1", "l1-exact"]
"""The norms of a ball. `l1` follows the released REM code, `l1-exact` the definition of L1; see `pgd`."""
ORDER = {"l2": 2.0, "l1": 1.0}
TINY = 1e-10
"""The constant that the released REM code adds to a norm before it divides by the norm."""


def step_direction(gradients: torch.Tensor, norm: Norm) -> torch.Tensor:
    """Return the attack's step of unit size for gradients (b, c, h, w)."""
    if norm == "linf":
        return gradients.sign()
    flat = gradients.flatten(1)
    if norm == "l1-exact":
        index = flat.abs().argmax(1, keepdim=True)
        return torch.zeros_like(flat).scatter(1, index, flat.gather(1, index).sign()).view_as(gradients)
    size: torch.Tensor = flat.norm(p=ORDER[norm], dim=1, keepdim=True)
    return (flat / (size + TINY)).view_as(gradients)


def project(delta: torch.Tensor, radius: float, norm: Norm) -> torch.Tensor:
    """Project perturbations (b, c, h, w) into the ball: `linf` clamps, `l2` and `l1` scale, `l1-exact` is exact."""
    if norm == "linf":
        return delta.clamp(-radius, radius)
    flat = delta.flatten(1)
    if norm != "l1-exact":
        size: torch.Tensor = flat.norm(p=ORDER[norm], dim=1, keepdim=True)
        return (flat * (size.clamp(max=radius) / (size + TINY))).view_as(delta)
    ordered = flat.abs().sort(dim=1, descending=True).values
    ranks = torch.arange(1, flat.shape[1] + 1, device=flat.device)
    thresholds = (ordered.cumsum(1) - radius) / ranks
    count = (ordered > thresholds).sum(1, keepdim=True)
    shrunk = flat.sign() * (flat.abs() - thresholds.gather(1, count - 1)).clamp(min=0)
    return torch.where(flat.abs().sum(1, keepdim=True) <= radius, flat, shrunk).view_as(delta)
