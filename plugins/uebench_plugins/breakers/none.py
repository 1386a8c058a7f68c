"""No breaker: plain training."""

from __future__ import annotations

import uebench
from uebench import Breaker


class NoBreaker(Breaker):
    """Train on the released images as they are (empirical risk minimisation)."""

    name = "none"
    paper = "the reference"


@uebench.hookimpl
def register_breakers() -> list[type[Breaker]]:
    """Register this module's breaker."""
    return [NoBreaker]
