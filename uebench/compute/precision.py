"""The precision in which networks compute: the one that the recipe asks for, if the device supports it."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

import torch

CPUINFO = Path("/proc/cpuinfo")


@lru_cache
def processor_has_bf16() -> bool:
    """Tell whether the CPU multiplies in bf16, according to Linux's /proc/cpuinfo; False on other systems."""
    try:
        return re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", CPUINFO.read_text()) is not None
    except OSError:
        return False


def has_bf16(device: torch.device) -> bool:
    """Tell whether a device supports bf16 in hardware; emulated bf16 is slower than fp32 and not more precise."""
    return processor_has_bf16() if device.type == "cpu" else torch.cuda.is_bf16_supported(including_emulation=False)


def set_precision(precision: str, device: torch.device) -> None:
    """Select this process's GPU, let cuDNN choose its fastest kernels, and set the precision of fp32 products.

    Products use TF32 for `tf32` and fp32 otherwise; PyTorch's default for convolutions is TF32, which `fp32` must not
    use.
    """
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.benchmark = True
