"""The norms of a ball: the step that an attack takes in each, and the way back into the ball."""

from __future__ import annotations

from typing import Literal

import torch

Norm = Literal["linf", "l2", "l1", "l1-exact"]
"""The norms of a ball. `l1` is the released code of REM, `l1-exact` what L1 stands for; see `pgd`."""
ORDER = {"l2": 2.0, "l1": 1.0}
TINY = 1e-10
"""What the released code adds to a norm before it divides by it."""


def step_direction(uphill: torch.Tensor, norm: Norm) -> torch.Tensor:
    """Return the step of unit size that an attack takes along gradients (b, c, h, w)."""
    if norm == "linf":
        return uphill.sign()
    flat = uphill.flatten(1)
    if norm == "l1-exact":
        place = flat.abs().argmax(1, keepdim=True)
        return torch.zeros_like(flat).scatter(1, place, flat.gather(1, place).sign()).view_as(uphill)
    size: torch.Tensor = flat.norm(p=ORDER[norm], dim=1, keepdim=True)
    return (flat / (size + TINY)).view_as(uphill)


def project(delta: torch.Tensor, radius: float, norm: Norm) -> torch.Tensor:
    """Bring perturbations (b, c, h, w) into the ball: clamped, scaled, or for `l1-exact` to the nearest point."""
    if norm == "linf":
        return delta.clamp(-radius, radius)
    flat = delta.flatten(1)
    if norm != "l1-exact":
        size: torch.Tensor = flat.norm(p=ORDER[norm], dim=1, keepdim=True)
        return (flat * (size.clamp(max=radius) / (size + TINY))).view_as(delta)
    ordered = flat.abs().sort(dim=1, descending=True).values
    ranks = torch.arange(1, flat.shape[1] + 1, device=flat.device)
    levels = (ordered.cumsum(1) - radius) / ranks
    count = (ordered > levels).sum(1, keepdim=True)
    shrunk = flat.sign() * (flat.abs() - levels.gather(1, count - 1)).clamp(min=0)
    return torch.where(flat.abs().sum(1, keepdim=True) <= radius, flat, shrunk).view_as(delta)
