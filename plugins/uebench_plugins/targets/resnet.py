"""Residual networks in their 32x32 form: a 3x3 stem without pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

import uebench
from uebench import Target, kit, parameter


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, 1x1 where the shape changes."""

    expansion: ClassVar[int] = 1

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, features: Tensor) -> Tensor:
        """Return the block's output (b, width, h / stride, w / stride)."""
        inner = F.relu(self.bn1(self.conv1(features)), inplace=True)
        return F.relu(self.bn2(self.conv2(inner)) + self.shortcut(features), inplace=True)


class Bottleneck(nn.Module):
    """A 3x3 convolution, which takes the stride, between two 1x1, the last four times as wide; and a shortcut."""

    expansion: ClassVar[int] = 4

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        outer = width * self.expansion
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outer, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outer)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != outer:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))

    def forward(self, features: Tensor) -> Tensor:
        """Return the block's output (b, 4 * width, h / stride, w / stride)."""
        inner = F.relu(self.bn1(self.conv1(features)), inplace=True)
        inner = F.relu(self.bn2(self.conv2(inner)), inplace=True)
        return F.relu(self.bn3(self.conv3(inner)) + self.shortcut(features), inplace=True)


def resnet(
    channels: int,
    classes: int,
    *,
    blocks: Sequence[int],
    width: int,
    block: type[BasicBlock | Bottleneck] = BasicBlock,
    stem_width: int | None = None,
    stem_stride: int = 1,
) -> nn.Module:
    """Return a residual network whose stages have the given numbers of blocks and widths that double.

    `width` is that of the first stage, and of the stem unless `stem_width` is given.
    """
    inner = stem_width or width
    layers: list[nn.Module] = [
        kit.Centre(),
        nn.Conv2d(channels, inner, 3, stem_stride, 1, bias=False),
        nn.BatchNorm2d(inner),
        nn.ReLU(inplace=True),
    ]
    for stage, depth in enumerate(blocks):
        outer = width * 2**stage
        for place in range(depth):
            layers.append(block(inner, outer, 2 if stage and not place else 1))
            inner = outer * block.expansion
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inner, classes))


class ResNet18(Target):
    """ResNet-18 with the 3x3 stem of the CIFAR papers; 11 173 962 parameters at 10 classes."""

    name = "resnet18"
    paper = "He et al., Deep Residual Learning for Image Recognition, CVPR 2016; 32x32 form of the REM code"

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """Return the network."""
        return resnet(shape[0], classes, blocks=(2, 2, 2, 2), width=64)


class ResNet50(Target):
    """ResNet-50 with the 3x3 stem of the CIFAR papers; 23 520 842 parameters at 10 classes."""

    name = "resnet50"
    paper = "He et al., Deep Residual Learning for Image Recognition, CVPR 2016; 32x32 form of the REM code"

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """Return the network."""
        return resnet(shape[0], classes, blocks=(3, 4, 6, 3), width=64, block=Bottleneck)


class ResNet8(Target):
    """Three stages of one basic block: real images on a processor in a minute."""

    name = "resnet8"
    paper = "He et al., Deep Residual Learning for Image Recognition, CVPR 2016; scaled down here"

    width: int = parameter(default=16, doc="channels of the first stage", low=1)
    stem_stride: int = parameter(default=2, doc="stride of the first convolution", low=1)

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """Return the network."""
        return resnet(shape[0], classes, blocks=(1, 1, 1), width=self.width, stem_stride=self.stem_stride)


@uebench.hookimpl
def register_targets() -> list[type[Target]]:
    """Register this module's targets."""
    return [ResNet18, ResNet50, ResNet8]
