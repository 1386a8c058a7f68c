"""The arithmetic that networks run in: what a recipe asks for, where the device has it."""

from __future__ import annotations

import gc
import re
from functools import lru_cache
from pathlib import Path

import torch

CPUINFO = Path("/proc/cpuinfo")


@lru_cache
def processor_has_bf16() -> bool:
    """Tell whether the processor multiplies in bf16, by Linux's list of its features; elsewhere it is taken not to."""
    try:
        return re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", CPUINFO.read_text()) is not None
    except OSError:
        return False


def has_bf16(device: torch.device) -> bool:
    """Tell whether a device has bf16 of its own; where it is emulated it is slower than fp32, and no more exact."""
    return processor_has_bf16() if device.type == "cpu" else torch.cuda.is_bf16_supported(including_emulation=False)


def set_precision(precision: str, device: torch.device) -> None:
    """Set this process's GPU, let it try which kernels are fastest, and set the arithmetic of its fp32 products.

    For `tf32` that is TF32, else fp32 itself; PyTorch's own default is TF32 in convolutions, which `fp32` must not be.
    From here on garbage is looked for, which a command does not do while it loads.
    """
    gc.enable()
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.benchmark = True
