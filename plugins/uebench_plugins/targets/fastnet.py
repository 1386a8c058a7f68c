"""A network that learns CIFAR-10 in minutes on one processor core, or in seconds on a GPU."""

from __future__ import annotations

from collections.abc import Mapping

import torch

import uebench
from uebench import Rate, Target, kit, parameter

MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
"""Mean and standard deviation of each channel of CIFAR-10's training images."""
SHIFT_RATE = 64
"""Factor on the learning rate of batch-norm shifts (Jordan 2024, section 3.4, after Page)."""


class FastNet(Target):
    """The network of airbench94 with a learnt first layer; `width_2=256` gives the widths of airbench94.

    The layers are a 2x2 convolution; three groups of convolution, max-pooling, batch norm, GELU, convolution, batch
    norm, GELU; max-pooling; and a linear layer without bias, whose logits are multiplied by 1/9. Convolutions start as
    the identity on their first channels. The scale of batch norm is not learnt. Its shifts have 64 times the learning
    rate.

    In airbench94 the first layer is computed from the training images and then fixed. It amplifies colours that are
    missing in these images by a factor of 45, so a network trained on grey copies fails on colour images. Here the
    first layer is learnt.
    """

    name = "fastnet"
    paper = "Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, 2024 (airbench94)"

    width_1: int = parameter(default=64, doc="channels of the first group", low=1)
    width_2: int = parameter(default=128, doc="channels of the second group", low=1)
    width_3: int = parameter(default=256, doc="channels of the third group", low=1)

    def build(self, shape: tuple[int, int, int], classes: int) -> torch.nn.Module:
        """Return the network, for images of at least 2x2 pixels; feature maps of one pixel are not pooled further."""
        channels, *sides = shape
        mean, deviation = (MEAN, DEVIATION) if channels == 3 else ([0.5] * channels, [0.25] * channels)
        stem = 8 * channels
        layers: list[torch.nn.Module] = [
            kit.normalise(mean, deviation), torch.nn.Conv2d(channels, stem, 2), torch.nn.GELU()
        ]  # fmt: skip
        side, inputs = min(sides) - 1, stem
        for width in (self.width_1, self.width_2, self.width_3):
            layers.append(_build_convolution(inputs, width))
            if side > 1:
                layers.append(torch.nn.MaxPool2d(2))
                side //= 2
            layers += [
                _build_norm(width),
                torch.nn.GELU(),
                _build_convolution(width, width),
                _build_norm(width),
                torch.nn.GELU(),
            ]
            inputs = width
        pool, linear = torch.nn.AdaptiveMaxPool2d(1), torch.nn.Linear(inputs, classes, bias=False)
        return torch.nn.Sequential(*layers, pool, torch.nn.Flatten(), linear, kit.scale(1 / 9))

    def rates(self, network: torch.nn.Module) -> Mapping[str, Rate]:
        """Return the factors for batch-norm shifts: 64 times the learning rate, and the same weight decay per step."""
        return {
            f"{name}.bias": Rate(lr=SHIFT_RATE, weight_decay=1 / SHIFT_RATE)
            for name, layer in network.named_modules()
            if isinstance(layer, torch.nn.BatchNorm2d)
        }


def _build_convolution(channels: int, width: int) -> torch.nn.Conv2d:
    """Return a 3x3 convolution that is the identity on its first channels and random on the others."""
    layer = torch.nn.Conv2d(channels, width, 3, padding=1, bias=False)
    torch.nn.init.dirac_(layer.weight.data[:channels])
    return layer


def _build_norm(width: int) -> torch.nn.BatchNorm2d:
    """Return a batch norm with a fixed scale of 1 and running statistics that depend mostly on the last batches."""
    layer = torch.nn.BatchNorm2d(width, eps=1e-12, momentum=0.4)
    layer.weight.requires_grad_(False)
    return layer


@uebench.hookimpl
def register_targets() -> list[type[Target]]:
    """Register this module's target."""
    return [FastNet]
