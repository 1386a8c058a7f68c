"""VGG-16 with batch norm and the small head of the REM code."""

from __future__ import annotations

import math

from torch import nn

import uebench
from uebench import Target, UserError, kit

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # width and number of convolutions, a pooling after each
HEAD = 512


class VGG16(Target):
    """VGG-16 with batch norm, global pooling and two hidden layers of 512; 15 253 578 parameters at 10 classes.

    Takes images of any size from 32x32. The REM code refuses it for ImageNet, for no reason in the network: the pooling
    in front of the head is global, so 224x224 works here, though nothing published compares with it.
    """

    name = "vgg16"
    paper = "Simonyan and Zisserman, Very Deep Convolutional Networks, ICLR 2015, table 1 D; batch norm and head of REM"

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """Return the network; raises `UserError` for images that five poolings leave nothing of."""
        channels, height, width = shape
        least = 2 ** len(STAGES)
        if min(height, width) < least:
            raise UserError(f"{self.name}: images must be at least {least}x{least} pixels, not {height}x{width}")
        layers: list[nn.Module] = [kit.Centre()]
        for outer, depth in STAGES:
            for _ in range(depth):
                layers += [nn.Conv2d(channels, outer, 3, padding=1), nn.BatchNorm2d(outer), nn.ReLU(inplace=True)]
                channels = outer
            layers.append(nn.MaxPool2d(2))
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        for _ in range(2):  # two hidden layers, as in the REM code
            layers += [nn.Dropout(0.5), nn.Linear(channels, HEAD), nn.ReLU(inplace=True)]
            channels = HEAD
        network = nn.Sequential(*layers, nn.Linear(channels, classes))
        for layer in network:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, 0, math.sqrt(2 / (9 * layer.out_channels)))  # as the REM code draws it
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        return network


@uebench.hookimpl
def register_targets() -> list[type[Target]]:
    """Register this module's target."""
    return [VGG16]
