"""The only way back to 8 bits: checks a noise against its budget, releases the images, and measures what is visible."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor

from uebench.api import Noise, UserError
from uebench.kit import quantise, to_float

TOLERANCE = 1e-6
"""What float32 arithmetic may add to a noise's radius."""
CHUNK = 1000  # images measured at once


class ContractError(UserError):
    """A component broke the contract it is written against; says which, and how."""


def release(noise: Noise, images: Tensor, delta: Any) -> Tensor:
    """Add a noise to uint8 images (n, c, h, w) and return the uint8 images that would be published.

    The noise is rounded to the nearest 8-bit value within its radius, the sum clipped to [0, 255]. Raises
    `ContractError` for a wrong type, shape, a value that is no number, or a noise over its budget.
    """
    if not isinstance(delta, Tensor):
        raise ContractError(f"noise {noise.name} returned {type(delta).__name__}, not a tensor")
    if delta.shape != images.shape:
        raise ContractError(f"noise {noise.name} returned shape {tuple(delta.shape)}, not {tuple(images.shape)}")
    if not delta.is_floating_point():
        raise ContractError(f"noise {noise.name} returned {delta.dtype}, not floating point")
    if not bool(delta.isfinite().all()):
        raise ContractError(f"noise {noise.name} returned values that are no numbers (NaN or infinite)")
    most = float(delta.abs().max())
    if most > noise.radius + TOLERANCE:
        raise ContractError(
            f"noise {noise.name} returned {most * 255:.4g}/255, over its budget {noise.radius * 255:.4g}/255"
        )
    steps = (quantise(delta.detach().to(images.device, torch.float32), noise.radius) * 255).round().to(torch.int16)
    return (images.to(torch.int16) + steps).clamp(0, 255).to(torch.uint8)


def visibility(clean: Tensor, released: Tensor) -> dict[str, float | None]:
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
    for before, after in zip(torch.split(clean, CHUNK), torch.split(released, CHUNK), strict=True):
        x, z = to_float(before), to_float(after)
        change = (z - x).flatten(1).double()
        linf = max(linf, float(change.abs().max()))
        l2 += float(change.norm(dim=1).sum())
        squares += float(change.square().sum())
        likeness += float(cast(Tensor, ssim(z, x, data_range=1.0, reduction="none", **window)).double().sum())
    return {
        "noise_linf": linf,
        "noise_l2": l2 / len(clean),
        "psnr": -10 * math.log10(squares / clean.numel()),
        "ssim": likeness / len(clean),
    }
