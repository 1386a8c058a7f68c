"""ResNet-18 with the ImageNet stem: a 7x7 convolution and a pooling layer, which divide the side by four."""

from __future__ import annotations

import torch

import uebench
from uebench import Target, kit


class ResNet18ImageNet(Target):
    """ResNet-18 of torchvision, unchanged; 11 181 642 parameters at 10 classes.

    At 224x224 it costs a fifteenth of `resnet18`, the network that REM used for its ImageNet-100 numbers.
    """

    name = "resnet18-imagenet"
    paper = "He et al., Deep Residual Learning for Image Recognition, CVPR 2016, table 1; torchvision's form"

    def build(self, shape: tuple[int, int, int], classes: int) -> torch.nn.Module:
        """Return the network."""
        from torchvision import models

        network = models.resnet18(weights=None, num_classes=classes)
        if shape[0] != 3:
            network.conv1 = torch.nn.Conv2d(shape[0], 64, 7, 2, 3, bias=False)
            torch.nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        return torch.nn.Sequential(kit.centre(), network)


@uebench.hookimpl
def register_targets() -> list[type[Target]]:
    """Register this module's target."""
    return [ResNet18ImageNet]
