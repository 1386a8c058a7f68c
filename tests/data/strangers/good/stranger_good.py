"""A noise and a breaker from outside: a fixed pattern per class, and a blur."""

import torch
from torch import Tensor
from torch.nn import functional as F

import uebench


class Stamp(uebench.Noise):
    """Add one random pattern per class."""

    name = "stamp"
    paper = "none; the simplest shortcut"

    strength: float = uebench.parameter(default=1.0, doc="share of the radius that is used", above=0, high=1)

    def make(self, images: Tensor, labels: Tensor, context: uebench.Context) -> Tensor:
        """Return plus or minus the radius, drawn per class and pixel."""
        patterns = torch.randint(0, 2, (context.classes, *images.shape[1:]), device=context.device) * 2.0 - 1
        return self.radius * self.strength * patterns[labels]


class Loud(Stamp):
    """A stamp that does not keep its budget."""

    name = "loud"

    def make(self, images: Tensor, labels: Tensor, context: uebench.Context) -> Tensor:
        """Return twice the radius."""
        return 2 * super().make(images, labels, context)


class Blur(uebench.Breaker):
    """Average each pixel with its neighbours."""

    name = "blur"
    paper = "none; textbook"

    def filter(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return 3x3 means."""
        return F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="reflect"), 3, 1)


@uebench.hookimpl
def register_noises() -> list[type[uebench.Noise]]:
    """Register the noises."""
    return [Stamp, Loud]


@uebench.hookimpl
def register_breakers() -> list[type[uebench.Breaker]]:
    """Register the breaker."""
    return [Blur]
