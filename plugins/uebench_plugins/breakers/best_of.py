"""Best of: tries several breakers on held-out protected images, and uses the best one."""

from __future__ import annotations

from collections import Counter

import uebench
from uebench import Breaker, Choice, UserError, parameter


class BestOf(Breaker):
    """Train with each breaker on a part of the protected images, and use the one with the best held-out accuracy.

    This needs no clean images. The held-out images are protected too, so a high accuracy can mean that the network
    learned the noise. If the noise is a shortcut, plain training scores highest and is used. The held-out images are
    neither filtered nor augmented, like test images.
    """

    name = "best-of"
    paper = "none; model selection by hold-out"

    of: tuple[Breaker, ...] = parameter(
        default="none/grayscale/jpeg/cutmix/ueraser", doc="breakers to try; the first of equally good ones is used"
    )
    held_out: float = parameter(default=0.2, doc="held-out share of the images", above=0, high=0.9)

    def __post_init__(self) -> None:
        """Raise `UserError` for fewer than two breakers, or for a breaker that is listed twice."""
        super().__post_init__()
        if isinstance(self.of, tuple):
            if len(self.of) < 2:
                raise UserError(f"{self.name}: `of` needs two breakers or more, separated by slashes")
            if repeated := [breaker.name for breaker, count in Counter(self.of).items() if count > 1]:
                raise UserError(f"{self.name}: {repeated[0]} is in `of` twice")

    def choice(self) -> Choice:
        """Return one chain per breaker."""
        return Choice([(breaker,) for breaker in self.of], self.held_out)


@uebench.hookimpl
def register_breakers() -> list[type[Breaker]]:
    """Register this module's breaker."""
    return [BestOf]
