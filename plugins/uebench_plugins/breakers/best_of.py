"""Best of: several breakers tried on held-out protected images, the best of them used."""

from __future__ import annotations

from collections import Counter

import uebench
from uebench import Breaker, Choice, UserError, parameter


class BestOf(Breaker):
    """Try several breakers, each on a part of the protected images, and take the one that does best on the rest.

    This is what somebody can do who scraped images and has no others. The images that decide are protected too, so a
    high score says that the noise is learnt, not that clean images would be: where it is a shortcut, plain training
    scores highest and is taken. They are scored as they were found, as test images are, neither filtered nor augmented.
    """

    name = "best-of"
    paper = "none; model selection by hold-out"

    of: tuple[Breaker, ...] = parameter(
        default="none/grayscale/jpeg/cutmix/ueraser", doc="breakers to try; of the best the first is taken"
    )
    held_out: float = parameter(default=0.2, doc="share of the images that decides", above=0, high=0.9)

    def __post_init__(self) -> None:
        """Refuse fewer than two breakers, or one that is there twice; raises `UserError`."""
        super().__post_init__()
        if isinstance(self.of, tuple):
            if len(self.of) < 2:
                raise UserError(f"{self.name}: `of` needs two breakers or more, with slashes between them")
            if twice := [breaker.name for breaker, count in Counter(self.of).items() if count > 1]:
                raise UserError(f"{self.name}: {twice[0]} is in `of` twice")

    def choice(self) -> Choice:
        """Return each breaker as a chain of its own."""
        return Choice([(breaker,) for breaker in self.of], self.held_out)


@uebench.hookimpl
def register_breakers() -> list[type[Breaker]]:
    """Register this module's breaker."""
    return [BestOf]
