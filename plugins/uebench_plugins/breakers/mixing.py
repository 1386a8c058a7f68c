"""Mixup and CutMix: each training image and its target are mixed with those of another image."""

from __future__ import annotations

import torch

import uebench
from uebench import Breaker, parameter


class Mixing(Breaker):
    """Base class of both: each image has a random partner from its batch and a share from a beta distribution.

    The papers' code and torchvision draw one share for a whole batch.
    """

    alpha: float = parameter(default=1.0, doc="both parameters of the beta distribution; 1 is uniform", above=0)

    def shares(self, images: torch.Tensor) -> torch.Tensor:
        """Return the share that each image (b, c, h, w) keeps, float32 (b,) in [0, 1]."""
        alpha = torch.full((), self.alpha, device=images.device)
        beta = torch.distributions.Beta(alpha, alpha, validate_args=False)  # validation would wait for the device
        return beta.sample((len(images),))


class Mixup(Mixing):
    """Train on weighted means of two images and of their targets.

    Every image is mixed once, as in the paper. EM and ISS mix up to twice, each time with probability 1/2.
    """

    name = "mixup"
    paper = "Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018"

    def augment(self, images: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mixed images and mixed targets."""
        partner, share = torch.randperm(len(images), device=images.device), self.shares(images)
        mixed = _weighted_mean(images, images[partner], share[:, None, None, None])
        return mixed, _weighted_mean(targets, targets[partner], share[:, None])


class CutMix(Mixing):
    """Put a rectangle of another image over each image, and weigh the targets by area.

    For CIFAR the paper mixes half of the batches; here half of the images of each batch are mixed. EM and ISS mix up
    to twice, as `cutmix+cutmix` does.
    """

    name = "cutmix"
    paper = "Yun et al., CutMix: Regularization Strategy to Train Strong Classifiers, ICCV 2019"

    probability: float = parameter(default=0.5, doc="probability that an image is mixed", low=0, high=1)

    def augment(self, images: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mixed images and targets; the share is the area of the rectangle inside the image."""
        count, _, height, width = images.shape
        partner = torch.randperm(count, device=images.device)
        is_mixed = torch.rand(count, device=images.device) < self.probability
        scale = (1 - self.shares(images)).sqrt() * is_mixed

        def is_inside(side: int) -> torch.Tensor:
            length = (side * scale).int()[:, None]
            start = torch.randint(side, (count, 1), device=images.device) - length // 2
            pixel = torch.arange(side, device=images.device)
            return (pixel >= start) & (pixel < start + length)

        patch = is_inside(height)[:, None, :, None] & is_inside(width)[:, None, None, :]
        share = 1 - patch.float().mean((1, 2, 3))
        return torch.where(patch, images[partner], images), _weighted_mean(targets, targets[partner], share[:, None])


def _weighted_mean(first: torch.Tensor, second: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return weight * first + (1 - weight) * second


@uebench.hookimpl
def register_breakers() -> list[type[Breaker]]:
    """Register this module's breakers."""
    return [Mixup, CutMix]
