"""A network that learns CIFAR-10 in minutes of one processor core, or in seconds of a GPU."""

from __future__ import annotations

from collections.abc import Mapping

import torch

import uebench
from uebench import Rate, Target, kit, parameter

MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
"""Of the channels of CIFAR-10's training images."""
SHIFT_RATE = 64
"""Share of the learning rate that batch-norm shifts take (Jordan 2024, section 3.4, after Page)."""


class FastNet(Target):
    """The network of airbench94 with a learnt first layer; `width_2=256` makes its widths airbench94's.

    A 2x2 convolution, then three groups of convolution, max-pooling, batch norm, GELU, convolution, batch norm, GELU;
    max-pooling, a linear layer without bias, logits times 1/9. Convolutions start as the identity on their first
    channels. Batch norm has no scale to learn, and its shifts take 64 times the learning rate.

    The first layer of airbench94 is set from the training images and stays as it is. It amplifies colours that these
    images lack 45 times, so that a network trained on grey copies fails on colour images. Here that layer is learnt.
    """

    name = "fastnet"
    paper = "Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, 2024 (airbench94)"

    width_1: int = parameter(default=64, doc="channels of the first group", low=1)
    width_2: int = parameter(default=128, doc="channels of the second group", low=1)
    width_3: int = parameter(default=256, doc="channels of the third group", low=1)

    def build(self, shape: tuple[int, int, int], classes: int) -> torch.nn.Module:
        """Return the network, for images of two pixels or more; smaller maps are not pooled."""
        channels, *sides = shape
        mean, deviation = (MEAN, DEVIATION) if channels == 3 else ([0.5] * channels, [0.25] * channels)
        stem = 8 * channels
        layers: list[torch.nn.Module] = [
            kit.normalise(mean, deviation), torch.nn.Conv2d(channels, stem, 2), torch.nn.GELU()
        ]  # fmt: skip
        side, inner = min(sides) - 1, stem
        for outer in (self.width_1, self.width_2, self.width_3):
            layers.append(_convolution(inner, outer))
            if side > 1:
                layers.append(torch.nn.MaxPool2d(2))
                side //= 2
            layers += [_norm(outer), torch.nn.GELU(), _convolution(outer, outer), _norm(outer), torch.nn.GELU()]
            inner = outer
        pool, linear = torch.nn.AdaptiveMaxPool2d(1), torch.nn.Linear(inner, classes, bias=False)
        return torch.nn.Sequential(*layers, pool, torch.nn.Flatten(), linear, kit.scale(1 / 9))

    def rates(self, network: torch.nn.Module) -> Mapping[str, Rate]:
        """Return the rate of batch-norm shifts: 64 times the others', with the same weight decay a step."""
        return {
            f"{name}.bias": Rate(lr=SHIFT_RATE, weight_decay=1 / SHIFT_RATE)
            for name, layer in network.named_modules()
            if isinstance(layer, torch.nn.BatchNorm2d)
        }


def _convolution(channels: int, width: int) -> torch.nn.Conv2d:
    """Return a 3x3 convolution that passes its first channels on as they are, and starts at random in the rest."""
    layer = torch.nn.Conv2d(channels, width, 3, padding=1, bias=False)
    torch.nn.init.dirac_(layer.weight.data[:channels])
    return layer


def _norm(width: int) -> torch.nn.BatchNorm2d:
    """Return a batch norm whose scale stays 1 and whose running statistics follow the last batches."""
    layer = torch.nn.BatchNorm2d(width, eps=1e-12, momentum=0.4)
    layer.weight.requires_grad_(False)
    return layer


@uebench.hookimpl
def register_targets() -> list[type[Target]]:
    """Register this module's target."""
    return [FastNet]
