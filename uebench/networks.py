"""Networks of the engine's own; imported in functions, since a class of `torch.nn.Module` loads torch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Module

from uebench.precision import has_bf16


class Classifier(Module):
    """A target's network in a recipe's precision: images (b, c, h, w) in [0, 1] to float32 logits (b, classes).

    `bf16` is autocast, on a device that has it, and fp32 on one that has not.
    """

    def __init__(self, network: Module, precision: str, device: torch.device) -> None:
        super().__init__()
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device = device
        self.autocast = precision == "bf16" and has_bf16(device)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            logits: Tensor = self.network(images)
        return logits.float() if self.autocast else logits


class Centre(Module):
    """Shift images from [0, 1] to [-0.5, 0.5]: the only normalisation of the REM code base."""

    def forward(self, images: Tensor) -> Tensor:
        """Return images - 0.5."""
        return images - 0.5
