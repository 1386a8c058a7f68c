"""Layers around a pretrained network, in a separate module because a class of `torch.nn.Module` imports PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from uebench import UserError

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's channels, which the published weights expect as normalisation."""


class Preprocessing(nn.Module):
    """Convert images in [0, 1] to the network's size, three channels, and ImageNet's normalisation."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, shape: tuple[int, int, int], size: int) -> None:
        super().__init__()
        if shape[0] not in (1, 3):
            raise UserError(f"pretrained networks take images of 1 or 3 channels, not {shape[0]}")
        self.size, self.resizes = size, shape[1:] != (size, size)
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1))
        self.register_buffer("deviation", torch.tensor(DEVIATION).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return the images (b, 3, size, size)."""
        if self.resizes:
            images = F.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        return (images - self.mean) / self.deviation


class Frozen(nn.Module):
    """A network in eval mode whose weights are not trained; gradients still pass through it to the images."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Frozen:
        """Stay in eval mode when the rest of the network is in training mode."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the features (b, features)."""
        features: Tensor = self.network(images)
        return features
