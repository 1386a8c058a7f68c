"""A network of three convolutions for the embedded data set."""

from __future__ import annotations

import torch

import uebench
from uebench import Target, kit, parameter


class SmallCNN(Target):
    """Three 3x3 convolutions with batch norm, strides 1, 2, 2, and a linear layer on the pooled features."""

    name = "smallcnn"
    paper = "none; a network that trains in seconds"

    width: int = parameter(default=32, doc="channels of the first layer; the others have twice as many", low=1)

    def build(self, shape: tuple[int, int, int], classes: int) -> torch.nn.Module:
        """Return the network."""
        layers: list[torch.nn.Module] = [kit.centre()]
        channels = shape[0]
        for width, stride in ((self.width, 1), (2 * self.width, 2), (2 * self.width, 2)):
            layers += [
                torch.nn.Conv2d(channels, width, 3, stride, 1, bias=False),
                torch.nn.BatchNorm2d(width),
                torch.nn.ReLU(inplace=True),
            ]
            channels = width
        return torch.nn.Sequential(
            *layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(channels, classes)
        )


@uebench.hookimpl
def register_targets() -> list[type[Target]]:
    """Register this module's target."""
    return [SmallCNN]
