"""DenseNet-121 in two forms: with the ImageNet stem, which REM uses for every image size, and with a 32x32 stem."""

from __future__ import annotations

import torch

import uebench
from uebench import Target, UserError, kit


def _check_size(minimum: int, name: str, shape: tuple[int, int, int]) -> None:
    """Raise `UserError` for images whose feature map would be empty after the stem and the transitions."""
    _, height, width = shape
    if min(height, width) < minimum:
        raise UserError(f"{name}: images must be at least {minimum}x{minimum} pixels, not {height}x{width}")


class DenseNet121(Target):
    """DenseNet-121 of torchvision, unchanged; 6 964 106 parameters at 10 classes.

    The stem divides the side by four: for 32x32 images the feature maps of the dense blocks have sides of 8, 4, 2 and
    1 pixels. REM's tables use this network. The form for 32x32 images is `densenet121-cifar`.
    """

    name = "densenet121"
    paper = "Huang et al., Densely Connected Convolutional Networks, CVPR 2017; torchvision's form, as in the REM code"

    def build(self, shape: tuple[int, int, int], classes: int) -> torch.nn.Module:
        """Return the network; raises `UserError` for images below 29x29, whose last feature map would be empty."""
        from torchvision import models

        _check_size(29, self.name, shape)
        network = models.densenet121(weights=None, num_classes=classes)
        if shape[0] != 3:
            network.features.conv0 = torch.nn.Conv2d(shape[0], 64, 7, 2, 3, bias=False)
            torch.nn.init.kaiming_normal_(network.features.conv0.weight)
        return torch.nn.Sequential(kit.centre(), network)


class DenseNet121CIFAR(Target):
    """DenseNet-121 with a single 3x3 convolution as its stem; 6 956 298 parameters at 10 classes.

    This form is the one in the code of EM, SC and ISS: there is no norm and no pooling before the first dense block,
    and every layer has PyTorch's default initialisation. REM's tables do not use this network.
    """

    name = "densenet121-cifar"
    paper = "Huang et al., Densely Connected Convolutional Networks, CVPR 2017; 32x32 form of Liu's pytorch-cifar"

    def build(self, shape: tuple[int, int, int], classes: int) -> torch.nn.Module:
        """Return the network; raises `UserError` for images below 8x8; three transitions halve the side."""
        from torchvision import models

        _check_size(8, self.name, shape)
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
