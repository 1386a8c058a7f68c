"""DenseNet-121 as REM published it, with the stem for ImageNet whatever the image, and in its 32x32 form."""

from __future__ import annotations

import torch

import uebench
from uebench import Target, UserError, kit


def refuse_below(least: int, name: str, shape: tuple[int, int, int]) -> None:
    """Raise `UserError` for images of which stem and transitions leave nothing."""
    _, height, width = shape
    if min(height, width) < least:
        raise UserError(f"{name}: images must be at least {least}x{least} pixels, not {height}x{width}")


class DenseNet121(Target):
    """DenseNet-121 of torchvision, unchanged; 6 964 106 parameters at 10 classes.

    Its stem divides the side by four: at 32x32 the dense blocks see maps of 8, 4, 2 and 1 pixels a side. REM's tables
    are of this network; the one made for 32x32 is `densenet121-cifar`.
    """

    name = "densenet121"
    paper = "Huang et al., Densely Connected Convolutional Networks, CVPR 2017; torchvision's form, as in the REM code"

    def build(self, shape: tuple[int, int, int], classes: int) -> torch.nn.Module:
        """Return the network; raises `UserError` for images below 29x29, which would end in an empty map."""
        from torchvision import models

        refuse_below(29, self.name, shape)
        network = models.densenet121(weights=None, num_classes=classes)
        if shape[0] != 3:
            network.features.conv0 = torch.nn.Conv2d(shape[0], 64, 7, 2, 3, bias=False)
            torch.nn.init.kaiming_normal_(network.features.conv0.weight)
        return torch.nn.Sequential(kit.centre(), network)


class DenseNet121CIFAR(Target):
    """DenseNet-121 with a plain 3x3 convolution for a stem; 6 956 298 parameters at 10 classes.

    The form that the code of EM, SC and ISS uses: no norm or pooling before the first dense block, every layer
    initialised as PyTorch does by default. REM's tables are not of this network.
    """

    name = "densenet121-cifar"
    paper = "Huang et al., Densely Connected Convolutional Networks, CVPR 2017; 32x32 form of Liu's pytorch-cifar"

    def build(self, shape: tuple[int, int, int], classes: int) -> torch.nn.Module:
        """Return the network; raises `UserError` for images below 8x8, which the transitions halve three times."""
        from torchvision import models

        refuse_below(8, self.name, shape)
        network = models.densenet121(weights=None, num_classes=classes)
        stem = network.features
        stem.conv0 = torch.nn.Conv2d(shape[0], 64, 3, 1, 1, bias=False)
        stem.norm0, stem.relu0, stem.pool0 = torch.nn.Identity(), torch.nn.Identity(), torch.nn.Identity()
        for layer in network.modules():
            if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
                layer.reset_parameters()
        return torch.nn.Sequential(kit.centre(), network)


@uebench.hookimpl
def register_targets() -> list[type[Target]]:
    """Register this module's targets."""
    return [DenseNet121, DenseNet121CIFAR]
