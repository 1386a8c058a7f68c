"""Where work is done: the store, the device and what it holds; and what a number was made with."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor

import uebench
from uebench.api import Component
from uebench.registry import registry
from uebench.store import Store


@dataclass(frozen=True)
class Place:
    """Where work is done: the store, the device, and the seconds between two states that a long job keeps."""

    store: Store
    device: torch.device
    every: float = 60.0

    def home(self, images: Tensor) -> torch.device:
        """Return where uint8 images are to be kept: on the device, or on the host where they would crowd it."""
        return self.device if self.holds(images.numel()) else torch.device("cpu")

    def holds(self, size: int) -> bool:
        """Tell whether so many bytes leave three quarters of a GPU's free memory; the host takes what it is given."""
        return self.device.type != "cuda" or size < torch.cuda.mem_get_info(self.device)[0] / 4


def made_with(place: Place, *components: Component) -> dict[str, Any]:
    """Return the versions and the device that a number was made with."""
    on_gpu = place.device.type == "cuda"
    return {
        "uebench": uebench.__version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(place.device) if on_gpu else _processor(),
        "threads": None if on_gpu else torch.get_num_threads(),
        "plugins": dict(sorted({registry().origin(component) for component in components})),
    }


def _processor() -> str:
    """Return the processor's name and vector instructions: bits differ between processors."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def measure_from_here(device: torch.device) -> None:
    """Forget the peak of memory so far."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> int | None:
    """Return the most bytes that were taken on a GPU since, None on a processor."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
