"""The workspace of a job: the store, the device, and what fits on the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from uebench.components.interfaces import Split
from uebench.storage.store import Store


@dataclass(frozen=True)
class Workspace:
    """The store, the device, and the seconds between two checkpoints of a long job."""

    store: Store
    device: torch.device
    every: float = 60.0

    def home(self, images: torch.Tensor) -> torch.device:
        """Return where to keep uint8 images: on the device, or on the host if they would fill the device."""
        return self.device if self.holds(images.numel()) else torch.device("cpu")

    def take(self, split: Split) -> Split:
        """Return a split with its labels on the device, and its images where `home` says."""
        return Split(split.images.to(self.home(split.images)), split.labels.to(self.device))

    def holds(self, size: int) -> bool:
        """Return whether `size` bytes take less than a quarter of a GPU's free memory; always true on the host."""
        return self.device.type != "cuda" or size < torch.cuda.mem_get_info(self.device)[0] / 4


def reset_peak_memory(device: torch.device) -> None:
    """Start a new measurement of the memory peak."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int | None:
    """Return the peak of memory that tensors took on a GPU, in bytes; None on a processor.

    Memory that CUDA graphs keep for themselves is not included.
    """
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
