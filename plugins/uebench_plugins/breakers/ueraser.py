"""UEraser: trains on strong random views of each image, first on those with the highest loss."""

from __future__ import annotations

from typing import Literal

import torch

import uebench
from uebench import Breaker, kit, parameter
from uebench_plugins.breakers.plasma import plasma
from uebench_plugins.breakers.randaugment_ops import OPERATIONS, apply_operations

ROUGHNESS, INTENSITY = (0.3, 0.7), (0.5, 1.0)
"""Ranges of a fractal's roughness and intensity, which are drawn for each image, as in the released code."""


class UEraser(Breaker):
    """Train on the hardest of several random views of each image, in the first part of the training or always.

    A view has three changes, each with probability 1/2: plasma fractals shift the brightness, they scale the contrast,
    and the channels are shuffled. Then one operation of TrivialAugment (Müller and Hutter, ICCV 2021) follows at random
    strength. `standard` uses the hardest view at first and a random view later, `max` always the hardest, `lite`
    always a random view.

    The hardest view has the highest loss of the network in eval mode, with fixed weights as for every attack. The
    released code computes the loss in training mode, in the passes that it also trains on. It draws one operation for
    a whole batch, from twelve operations that differ from those of TrivialAugment; here every image draws one of
    RandAugment's. It adds JPEG if the noise is TAP or AR; a breaker does not know the noise, but `jpeg+ueraser` can be
    used against every noise.
    """

    name = "ueraser"
    version = 2
    paper = "Qin et al., Learning the Unlearnable: Adversarial Augmentations Suppress Unlearnable Example Attacks, 2023"

    mode: Literal["standard", "lite", "max"] = parameter(default="standard", doc="when the hardest view is used")
    share: float = parameter(
        default=1 / 6, doc="share of the steps, from the start, that uses it in standard", low=0, high=1
    )
    repeat: int = parameter(default=5, doc="views to choose from", low=1)

    def attack(
        self, model: torch.nn.Module, images: torch.Tensor, targets: torch.Tensor, progress: float
    ) -> torch.Tensor:
        """Return a view of each image; raises `UserError` unless the images have 1 or 3 channels."""
        if self.mode == "lite" or (self.mode == "standard" and progress >= self.share):
            return draw_views(images)
        hardest, highest_loss = images, torch.full_like(images[:, 0, 0, 0], -torch.inf)
        with kit.frozen(model), torch.no_grad():
            for draws in kit.parts(self.repeat, images):
                views, view_targets = draw_views(torch.cat([images] * draws)), torch.cat([targets] * draws)
                losses = torch.nn.functional.cross_entropy(model(views), view_targets, reduction="none")
                loss, draw = losses.view(draws, -1).max(0)
                candidates = views.view(draws, *images.shape)[draw, torch.arange(len(images), device=images.device)]
                is_harder = loss > highest_loss
                hardest = torch.where(is_harder.view(-1, 1, 1, 1), candidates, hardest)
                highest_loss = torch.where(is_harder, loss, highest_loss)
        return hardest

    def passes(self) -> float:
        """Return the mean number of passes per image; a forward pass alone counts as half."""
        return {"lite": 0, "standard": self.share, "max": 1}[self.mode] * self.repeat / 2


def draw_views(images: torch.Tensor) -> torch.Tensor:
    """Return one random view of each image (b, c, h, w) in [0, 1]."""
    count, channels = images.shape[:2]
    has_brightness, has_contrast, is_shuffled = torch.rand(3, count) < 0.5
    # The host draws the small tensors and sends them to the device without waiting for it. Per image: the roughness of
    # both maps, the scale of the brightness shift, and offset and scale of the contrast factor, offset + scale * map.
    # Without the change, they are 0, and 1 and 0.
    drawn = torch.empty(5, count)
    drawn[:2].uniform_(*ROUGHNESS)
    drawn[2] = 2 * torch.empty(count).uniform_(*INTENSITY) * has_brightness
    drawn[3], drawn[4] = ~has_contrast, 4 * has_contrast
    channel_order = torch.where(is_shuffled[:, None], torch.rand(count, channels).argsort(1), torch.arange(channels))
    drawn, channel_order = (values.to(images.device, non_blocking=True) for values in (drawn, channel_order))
    brightness_scale, contrast_offset, contrast_scale = drawn[2:, :, None, None, None]
    maps = plasma(torch.Size((2 * count, *images.shape[1:])), drawn[:2].flatten())
    images = torch.addcmul(images, brightness_scale, maps[:count] - 0.5).clamp_(0, 1)
    grey = torch.full((), 0.5, device=images.device)
    images = torch.lerp(grey, images, torch.addcmul(contrast_offset, contrast_scale, maps[count:])).clamp_(0, 1)
    images = images.gather(1, channel_order[:, :, None, None].expand_as(images))
    return apply_operations(images, torch.randint(len(OPERATIONS), (count,)), torch.empty(count).uniform_(-1, 1))


@uebench.hookimpl
def register_breakers() -> list[type[Breaker]]:
    """Register this module's breakers."""
    return [UEraser]
