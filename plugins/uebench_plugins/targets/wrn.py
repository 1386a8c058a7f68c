"""The wide residual network of the REM code, which differs from the published WRN-34-10."""

from __future__ import annotations

import torch

import uebench
from uebench import Target
from uebench_plugins.targets.resnet import build_resnet


class WRN34x10(Target):
    """WRN-34-10 with post-activation blocks; 46 162 714 parameters at 10 classes.

    The network has a stem of 16 channels, then five basic blocks of each width: 160, 320 and 640. The blocks are those
    of ResNet-18: convolution first, then norm and rectifier. In the original, norm and rectifier come first. There is
    no dropout, and no norm before the pooling.
    """

    name = "wrn-34-10"
    paper = "Zagoruyko and Komodakis, Wide Residual Networks, BMVC 2016; post-activation form of the REM code"

    def build(self, shape: tuple[int, int, int], classes: int) -> torch.nn.Module:
        """Return the network."""
        return build_resnet(shape[0], classes, blocks=(5, 5, 5), width=160, stem_width=16)


@uebench.hookimpl
def register_targets() -> list[type[Target]]:
    """Register this module's target."""
    return [WRN34x10]
