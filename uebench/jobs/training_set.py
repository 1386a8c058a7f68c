"""The training set of a cell: the protected share of a data set, and the filters of breakers."""

from __future__ import annotations

import torch

from uebench.components.errors import ContractError
from uebench.components.interfaces import Breaker, Dataset, Split
from uebench.components.spec import format_number
from uebench.compute.audit import split_into_chunks
from uebench.compute.pixels import to_bytes, to_float
from uebench.compute.seeds import derive_seed, seed_generators
from uebench.planning.plan import Cell


def apply_filters(chain: tuple[Breaker, ...], images: torch.Tensor, labels: torch.Tensor, seed: int) -> torch.Tensor:
    """Pass uint8 images (n, c, h, w) and labels (n,) through a chain's filters; each result is rounded to 8 bits."""
    seed_generators(seed)
    for breaker in chain:
        if type(breaker).filter is not Breaker.filter:
            count = len(images)
            parts = split_into_chunks(count, images[0].numel()) if breaker.by_image else [slice(count)]
            images = torch.cat([_apply_filter(breaker, images[part], labels[part]) for part in parts])
    return images


def _apply_filter(breaker: Breaker, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    filtered = breaker.filter(to_float(images), labels.to(images.device, copy=True))
    if filtered.shape != images.shape or not filtered.is_floating_point() or not bool(filtered.isfinite().all()):
        raise ContractError(f"breaker {breaker.name}: filter must return finite floats of its input's shape")
    return to_bytes(filtered)


def training_split(cell: Cell, released: torch.Tensor, data: Dataset) -> Split:
    """Return the training set of a cell; which images are protected depends on data set, share and seed alone."""
    count = len(data.train.labels)
    seed = derive_seed(cell.protect.seed, "share", format_number(cell.protected))
    protected = torch.randperm(count, generator=torch.Generator().manual_seed(seed)) < round(cell.protected * count)
    if cell.protected == 1 and cell.kind == "mixed":
        return Split(released, data.train.labels)
    if cell.kind == "clean-only":
        return Split(data.train.images[~protected], data.train.labels[~protected])
    images = torch.where(protected[:, None, None, None], released, data.train.images)
    return Split(images, data.train.labels)
