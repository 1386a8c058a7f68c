"""VGG-16 with batch norm and the small head of the REM code."""

from __future__ import annotations

import math

import torch

import uebench
from uebench import Target, UserError, kit

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # width and number of convolutions; each ends in a pooling
HEAD = 512


class VGG16(Target):
    """VGG-16 with batch norm, global pooling and two hidden layers of 512; 15 253 578 parameters at 10 classes.

    The network takes images of any size from 32x32. The REM code does not allow it for ImageNet, although the network
    itself permits that: the pooling before the head is global, so 224x224 works here. There are no published numbers to
    compare with.
    """

    name = "vgg16"
    paper = "Simonyan and Zisserman, Very Deep Convolutional Networks, ICLR 2015, table 1 D; batch norm and head of REM"

    def build(self, shape: tuple[int, int, int], classes: int) -> torch.nn.Module:
        """Return the network; raises `UserError` for images below 32x32, since five poolings halve the side."""
        channels, height, width = shape
        minimum = 2 ** len(STAGES)
        if min(height, width) < minimum:
            raise UserError(f"{self.name}: images must be at least {minimum}x{minimum} pixels, not {height}x{width}")
        layers: list[torch.nn.Module] = [kit.centre()]
        for stage_width, depth in STAGES:
            for _ in range(depth):
                layers += [
                    torch.nn.Conv2d(channels, stage_width, 3, padding=1),
                    torch.nn.BatchNorm2d(stage_width),
                    torch.nn.ReLU(inplace=True),
                ]
                channels = stage_width
            layers.append(torch.nn.MaxPool2d(2))
        layers += [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
        for _ in range(2):  # two hidden layers, as in the REM code
            layers += [torch.nn.Dropout(0.5), torch.nn.Linear(channels, HEAD), torch.nn.ReLU(inplace=True)]
            channels = HEAD
        network = torch.nn.Sequential(*layers, torch.nn.Linear(channels, classes))
        for layer in network:
            if isinstance(layer, torch.nn.Conv2d):
                torch.nn.init.normal_(
                    layer.weight, 0, math.sqrt(2 / (9 * layer.out_channels))
                )  # the initialisation of the REM code
                torch.nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        return network


@uebench.hookimpl
def register_targets() -> list[type[Target]]:
    """Register this module's target."""
    return [VGG16]
