"""The only way back to 8 bits: checks a noise against its budget, releases the images, and measures what is visible."""

from __future__ import annotations

import math
from typing import Any, cast

import torch

from uebench.components.errors import ContractError
from uebench.components.interfaces import Budget, Noise
from uebench.compute.pixels import to_float, to_steps

LINF_TOLERANCE = 1e-6
"""What float32 arithmetic may add to the L-inf norm of a noise."""
L2_TOLERANCE = 1e-5
"""What it may add to the L2 norm, as a share of the radius: a factor in float32 is off by a little for every value."""
CHUNK_VALUES = 1000 * 3 * 32 * 32
"""Values worked on at once."""


def split_into_chunks(count: int, values: int) -> list[slice]:
    """Return slices that cover `count` images of so many values each, a few million values at a time."""
    size = max(1, CHUNK_VALUES // values)
    return [slice(first, first + size) for first in range(0, count, size)]


def budget_excess(budget: Budget, change: torch.Tensor) -> float:
    """Return the largest of some noises (b, c, h, w), in pixel range, as a multiple of its budget."""
    size = _size(budget, change)
    if budget.radius == 0:
        return math.inf if size else 0.0
    return size / budget.radius


def _size(budget: Budget, change: torch.Tensor) -> float:
    """Return the norm of the largest of some noises (b, c, h, w), in the unit of the budget's radius."""
    if budget.norm == "none" or not change.numel():
        return 0.0
    if budget.norm == "linf":
        return float(change.abs().max())
    if budget.norm == "l2":
        return float(change.flatten(1).double().norm(dim=1).max())
    return float((change != 0).any(1).flatten(1).sum(1).max())


def release_images(noise: Noise, images: torch.Tensor, delta: Any) -> torch.Tensor:
    """Add a noise to uint8 images (n, c, h, w) and return the uint8 images that would be published.

    The noise is rounded to whole steps of 1/255 within its budget, the sum clipped to [0, 255]. Raises
    `ContractError` for a wrong type, shape, a value that is no number, or a noise over its budget.
    """
    if not isinstance(delta, torch.Tensor):
        raise ContractError(f"noise {noise.name} returned {type(delta).__name__}, not a tensor")
    if delta.shape != images.shape:
        raise ContractError(f"noise {noise.name} returned shape {tuple(delta.shape)}, not {tuple(images.shape)}")
    if not delta.is_floating_point() and delta.dtype not in (torch.int8, torch.int16):
        raise ContractError(f"noise {noise.name} returned {delta.dtype}, not floating point, int8 or int16")
    budget = noise.budget(images.shape[1:])
    released = torch.empty_like(images)
    for part in split_into_chunks(len(images), images[0].numel()):
        found = delta[part].detach()
        found = found.float() if delta.is_floating_point() else found.float() / 255
        if not bool(found.isfinite().all()):
            raise ContractError(f"noise {noise.name} returned values that are no numbers (NaN or infinite)")
        size, slack = (
            _size(budget, found),
            {"linf": LINF_TOLERANCE, "l2": L2_TOLERANCE * budget.radius}.get(budget.norm, 0.0),
        )
        if size > budget.radius + slack:
            raise ContractError(f"noise {noise.name} returned {_compared(budget, size)}")
        steps = to_steps(found, budget).to(images.device, torch.int16)
        released[part] = (images[part].to(torch.int16) + steps).clamp(0, 255).to(torch.uint8)
    return released


def _compared(budget: Budget, size: float) -> str:
    """Return a size over its budget and that budget in words, with digits enough to tell them apart."""
    scale, unit = {"linf": (255, "/255"), "l0": (1, " pixels")}.get(budget.norm, (1, f" ({budget.norm})"))
    found, allowed = (f"{value * scale:.4g}" for value in (size, budget.radius))
    if found == allowed or budget.norm == "l0":
        found, allowed = (f"{value * scale:.9g}" for value in (size, budget.radius))
    return f"{found}{unit}, over its budget {allowed}{unit}"


def measure_visibility(clean: torch.Tensor, released: torch.Tensor, device: torch.device) -> dict[str, float | None]:
    """Measure the noise on the 8-bit images: largest L-inf, mean L2 per image (both in [0, 1] pixels), PSNR, SSIM.

    PSNR in dB over the whole set, None where nothing changed. SSIM after Wang et al., IEEE TIP 2004, with the Gaussian
    window of 11 pixels, or a flat one of 7 where a side is shorter than 11.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    if torch.equal(clean, released):
        return {"noise_linf": 0.0, "noise_l2": 0.0, "psnr": None, "ssim": 1.0}
    flat = min(clean.shape[-2:]) < 11
    window: dict[str, Any] = {
        "gaussian_kernel": not flat,
        "kernel_size": min(7, *clean.shape[-2:]) // 2 * 2 - 1 if flat else 11,
    }
    linf, l2, squares, likeness = 0.0, 0.0, 0.0, 0.0
    for part in split_into_chunks(len(clean), clean[0].numel()):
        x, z = to_float(clean[part].to(device)), to_float(released[part].to(device))
        change = (z - x).flatten(1).double()
        linf = max(linf, float(change.abs().max()))
        l2 += float(change.norm(dim=1).sum())
        squares += float(change.square().sum())
        likeness += float(cast(torch.Tensor, ssim(z, x, data_range=1.0, reduction="none", **window)).double().sum())
    return {
        "noise_linf": linf,
        "noise_l2": l2 / len(clean),
        "psnr": -10 * math.log10(squares / clean.numel()),
        "ssim": likeness / len(clean),
    }
