"""A plug-in that takes a name that is taken, beside one that is free."""

from torch import Tensor

import uebench


class Other(uebench.Breaker):
    """Do nothing under somebody else's name."""

    name = "adv-linf"
    paper = "none"


class Free(uebench.Breaker):
    """Turn the images upside down."""

    name = "upside-down"
    paper = "none"

    def filter(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the images flipped vertically."""
        return images.flip(2)


@uebench.hookimpl
def register_breakers() -> list[type[uebench.Breaker]]:
    """Register both."""
    return [Other, Free]
