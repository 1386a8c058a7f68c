"""Where work is done: the store, the device, and what the device holds."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from uebench.components.interfaces import Split
from uebench.storage.store import Store


@dataclass(frozen=True)
class Workspace:
    """Where work is done: the store, the device, and the seconds between two states that a long job keeps."""

    store: Store
    device: torch.device
    every: float = 60.0

    def home(self, images: torch.Tensor) -> torch.device:
        """Return where uint8 images are to be kept: on the device, or on the host where they would crowd it."""
        return self.device if self.holds(images.numel()) else torch.device("cpu")

    def take(self, split: Split) -> Split:
        """Return a split with its labels on the device, and its images at home."""
        return Split(split.images.to(self.home(split.images)), split.labels.to(self.device))

    def holds(self, size: int) -> bool:
        """Tell whether so many bytes leave three quarters of a GPU's free memory; the host takes what it is given."""
        return self.device.type != "cuda" or size < torch.cuda.mem_get_info(self.device)[0] / 4


def reset_peak_memory(device: torch.device) -> None:
    """Forget the peak of memory so far."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int | None:
    """Return the most bytes that tensors took on a GPU since, None on a processor.

    What recorded work takes in between, memory that it keeps for itself, is not among them.
    """
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
