"""The only step that releases images in 8 bits: checks the noise against its budget and measures how visible it is."""

from __future__ import annotations

import math
from typing import Any, cast

import torch

from uebench.components.errors import ContractError
from uebench.components.interfaces import Budget, Noise
from uebench.compute.pixels import to_float, to_steps

LINF_TOLERANCE = 1e-6
"""The allowed float32 rounding error in the L-inf norm of a noise."""
L2_TOLERANCE = 1e-5
"""The allowed float32 rounding error in the L2 norm, relative to the radius: scaling adds an error to every value."""
CHUNK_VALUES = 1000 * 3 * 32 * 32
"""Values processed at once."""


def split_into_chunks(count: int, values: int) -> list[slice]:
    """Return slices that cover `count` images of `values` values each, with about three million values per slice."""
    size = max(1, CHUNK_VALUES // values)
    return [slice(first, first + size) for first in range(0, count, size)]


def budget_excess(budget: Budget, change: torch.Tensor) -> float:
    """Return the largest norm of noises (b, c, h, w), in pixel range [0, 1], as a multiple of the budget."""
    size = _largest_norm(budget, change)
    if budget.radius == 0:
        return math.inf if size else 0.0
    return size / budget.radius


def _largest_norm(budget: Budget, change: torch.Tensor) -> float:
    """Return the largest norm of noises (b, c, h, w), in the unit of the budget's radius."""
    if budget.norm == "none" or not change.numel():
        return 0.0
    if budget.norm == "linf":
        return float(change.abs().max())
    if budget.norm == "l2":
        return float(change.flatten(1).double().norm(dim=1).max())
    return float((change != 0).any(1).flatten(1).sum(1).max())


def release_images(noise: Noise, images: torch.Tensor, delta: Any) -> torch.Tensor:
    """Add a noise to uint8 images (n, c, h, w) and return the uint8 images to publish.

    The noise is rounded to whole steps of 1/255 within its budget, and the sum is clipped to [0, 255]. Raises
    `ContractError` for a wrong type or shape, for NaN or infinite values, and for a noise over its budget.
    """
    if not isinstance(delta, torch.Tensor):
        raise ContractError(f"noise {noise.name} returned {type(delta).__name__}, not a tensor")
    if delta.shape != images.shape:
        raise ContractError(f"noise {noise.name} returned shape {tuple(delta.shape)}, not {tuple(images.shape)}")
    if not delta.is_floating_point() and delta.dtype not in (torch.int8, torch.int16):
        raise ContractError(f"noise {noise.name} returned {delta.dtype}, not floating point, int8 or int16")
    budget = noise.budget(images.shape[1:])
    released = torch.empty_like(images)
    tolerance = {"linf": LINF_TOLERANCE, "l2": L2_TOLERANCE * budget.radius}.get(budget.norm, 0.0)
    for chunk in split_into_chunks(len(images), images[0].numel()):
        change = delta[chunk].detach()
        change = change.float() if delta.is_floating_point() else change.float() / 255
        if not bool(change.isfinite().all()):
            raise ContractError(f"noise {noise.name} returned NaN or infinite values; all values must be finite")
        size = _largest_norm(budget, change)
        if size > budget.radius + tolerance:
            raise ContractError(f"noise {noise.name} returned {_describe_excess(budget, size)}")
        steps = to_steps(change, budget).to(images.device, torch.int16)
        released[chunk] = (images[chunk].to(torch.int16) + steps).clamp(0, 255).to(torch.uint8)
    return released


def _describe_excess(budget: Budget, size: float) -> str:
    """Return the text '9/255, over its budget 8/255', with enough digits to show the difference."""
    scale, unit = {"linf": (255, "/255"), "l0": (1, " pixels")}.get(budget.norm, (1, f" ({budget.norm})"))
    measured, allowed = (f"{value * scale:.4g}" for value in (size, budget.radius))
    if measured == allowed or budget.norm == "l0":
        measured, allowed = (f"{value * scale:.9g}" for value in (size, budget.radius))
    return f"{measured}{unit}, over its budget {allowed}{unit}"


BLANK_SHARE = 0.5
"""From this share of blank images on a class is mostly not shown; a few blank images also occur in honest data sets."""


def has_blank_class(released: torch.Tensor, labels: torch.Tensor) -> bool:
    """Return whether most released images (n, c, h, w) of some class have one value in every pixel and channel."""
    pixels = released.flatten(1)
    blank = (pixels == pixels[:, :1]).all(1).cpu()
    return any(bool(blank[labels.cpu() == label].float().mean() > BLANK_SHARE) for label in torch.unique(labels))


def measure_visibility(clean: torch.Tensor, released: torch.Tensor, device: torch.device) -> dict[str, float | None]:
    """Measure the noise on 8-bit images: largest L-inf, mean L2 per image (both for pixels in [0, 1]), PSNR, SSIM.

    PSNR is in dB over the whole set, None if no pixel changed. SSIM follows Wang et al., IEEE TIP 2004, with the
    Gaussian window of 11 pixels, or a flat window of 7 pixels if a side is shorter than 11.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    if torch.equal(clean, released):
        return {"noise_linf": 0.0, "noise_l2": 0.0, "psnr": None, "ssim": 1.0}
    flat = min(clean.shape[-2:]) < 11
    window: dict[str, Any] = {
        "gaussian_kernel": not flat,
        "kernel_size": min(7, *clean.shape[-2:]) // 2 * 2 - 1 if flat else 11,
    }
    linf, l2, squares, similarity = 0.0, 0.0, 0.0, 0.0
    for chunk in split_into_chunks(len(clean), clean[0].numel()):
        before, after = to_float(clean[chunk].to(device)), to_float(released[chunk].to(device))
        change = (after - before).flatten(1).double()
        linf = max(linf, float(change.abs().max()))
        l2 += float(change.norm(dim=1).sum())
        squares += float(change.square().sum())
        values = cast(torch.Tensor, ssim(after, before, data_range=1.0, reduction="none", **window))
        similarity += float(values.double().sum())
    return {
        "noise_linf": linf,
        "noise_l2": l2 / len(clean),
        "psnr": -10 * math.log10(squares / clean.numel()),
        "ssim": similarity / len(clean),
    }
