"""Derives one seed per role from the user's seed, and seeds all random generators."""

from __future__ import annotations

import hashlib
import random
from functools import cache

import numpy as np
import torch


def derive_seed(seed: int, *role: str | int) -> int:
    """Derive a 32-bit seed from a seed and a role by SHA-256, so that the seeds of two roles look unrelated."""
    text = "/".join(str(part) for part in (seed, *role))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def seed_generators(seed: int) -> None:
    """Seed the default generators of torch (all devices), NumPy and Python."""
    if _has_cpu_only():  # takes a tenth of the time of the general call, and every step is seeded
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002  plug-ins may draw from the global generator
    random.seed(seed)


@cache
def _has_cpu_only() -> bool:
    """Tell whether the CPU is the only device that torch can use on this computer."""
    return not torch.accelerator.is_available()


def random_permutation(count: int, seed: int) -> torch.Tensor:
    """Return a random order of 0 .. count-1, the same on every device."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))
