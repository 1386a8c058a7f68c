"""Residual networks in their 32x32 form: a 3x3 stem without pooling."""

from __future__ import annotations

from collections.abc import Sequence

import torch

import uebench
from uebench import Target, kit, parameter


def build_resnet(
    channels: int,
    classes: int,
    *,
    blocks: Sequence[int],
    width: int,
    bottleneck: bool = False,
    stem_width: int | None = None,
    stem_stride: int = 1,
) -> torch.nn.Module:
    """Return a residual network with `blocks[i]` blocks in stage i; each stage has twice the width of the one before.

    `width` is the number of channels of the first stage, and of the stem unless `stem_width` is given.
    """
    from uebench_plugins.targets.residual_blocks import BasicBlock, Bottleneck

    block = Bottleneck if bottleneck else BasicBlock
    inputs = stem_width or width
    layers: list[torch.nn.Module] = [
        kit.centre(),
        torch.nn.Conv2d(channels, inputs, 3, stem_stride, 1, bias=False),
        torch.nn.BatchNorm2d(inputs),
        torch.nn.ReLU(inplace=True),
    ]
    for stage, depth in enumerate(blocks):
        stage_width = width * 2**stage
        for index in range(depth):
            layers.append(block(inputs, stage_width, 2 if stage and not index else 1))
            inputs = stage_width * block.expansion
    return torch.nn.Sequential(
        *layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(inputs, classes)
    )


class ResNet18(Target):
    """ResNet-18 with the 3x3 stem of the CIFAR papers; 11 173 962 parameters at 10 classes."""

    name = "resnet18"
    paper = "He et al., Deep Residual Learning for Image Recognition, CVPR 2016; 32x32 form of the REM code"

    def build(self, shape: tuple[int, int, int], classes: int) -> torch.nn.Module:
        """Return the network."""
        return build_resnet(shape[0], classes, blocks=(2, 2, 2, 2), width=64)


class ResNet50(Target):
    """ResNet-50 with the 3x3 stem of the CIFAR papers; 23 520 842 parameters at 10 classes."""

    name = "resnet50"
    paper = "He et al., Deep Residual Learning for Image Recognition, CVPR 2016; 32x32 form of the REM code"

    def build(self, shape: tuple[int, int, int], classes: int) -> torch.nn.Module:
        """Return the network."""
        return build_resnet(shape[0], classes, blocks=(3, 4, 6, 3), width=64, bottleneck=True)


class ResNet8(Target):
    """Three stages of one basic block each; trains on real images in a minute on a processor."""

    name = "resnet8"
    paper = "He et al., Deep Residual Learning for Image Recognition, CVPR 2016; scaled down here"

    width: int = parameter(default=16, doc="channels of the first stage", low=1)
    stem_stride: int = parameter(default=2, doc="stride of the first convolution", low=1)

    def build(self, shape: tuple[int, int, int], classes: int) -> torch.nn.Module:
        """Return the network."""
        return build_resnet(shape[0], classes, blocks=(1, 1, 1), width=self.width, stem_stride=self.stem_stride)


@uebench.hookimpl
def register_targets() -> list[type[Target]]:
    """Register this module's targets."""
    return [ResNet18, ResNet50, ResNet8]
