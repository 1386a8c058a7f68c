"""The engine's own network modules; import it inside functions, because a subclass of `torch.nn.Module` loads torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import Module

from uebench.components.interfaces import Rate
from uebench.compute.precision import has_bf16


class Classifier(Module):
    """A target's network in a recipe's precision: maps images (b, c, h, w) in [0, 1] to float32 logits (b, classes).

    `bf16` uses autocast on a device with bf16, and fp32 on other devices. The attribute `rates` holds `Target.rates`
    under this module's parameter names.
    """

    def __init__(
        self, network: Module, precision: str, device: torch.device, rates: Mapping[str, Rate] | None = None
    ) -> None:
        super().__init__()
        self.rates = {f"network.{name}": rate for name, rate in (rates or {}).items()}
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device, self.precision = device, precision
        self.autocast = precision == "bf16" and has_bf16(device)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            logits: Tensor = self.network(images)
        return logits.float() if self.autocast else logits


class Normalise(Module):
    """Shift and scale the channels of images (b, c, h, w): (images - mean) / deviation."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: Sequence[float], deviation: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the normalised images."""
        return (images - self.mean) / self.deviation


class Scale(Module):
    """Multiply by a constant, such as a network's logits."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, values: Tensor) -> Tensor:
        """Return the values times the constant."""
        return values * self.factor


class Centre(Module):
    """Shift images from [0, 1] to [-0.5, 0.5]: the only normalisation of the REM code base."""

    def forward(self, images: Tensor) -> Tensor:
        """Return images - 0.5."""
        return images - 0.5
