"""Orders what is left of a noise's protection by the years in which the breakers against it were published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from uebench.board.rows import BreakerRow, NoiseRow

PLAIN_TRAINING = "none"
"""The breaker that changes nothing, which counts in every year."""


@dataclass(frozen=True)
class YearResidual:
    """The residual of a noise against every breaker published until a year, and the breaker that recovers most.

    The residual is a share in [0, 1]. A `year` of None is plain training alone.
    """

    year: int | None
    residual: float
    breaker: str


def residuals_by_year(noise: NoiseRow, breakers: Sequence[BreakerRow]) -> list[YearResidual]:
    """Return the best known residual of a noise for each year in which a breaker that was run was published.

    The list starts with plain training, where it was run. Breakers whose paper states no year are left out; see
    `undated_breakers`. Of breakers that recover the same, the earlier one is named. The residual never rises.
    """
    dated = sorted(
        (row.year, row.breaker) for row in breakers if row.year is not None and row.breaker in noise.residuals
    )
    found = list[YearResidual]()
    if PLAIN_TRAINING in noise.residuals:
        found.append(YearResidual(None, noise.residuals[PLAIN_TRAINING], PLAIN_TRAINING))
    for year, breaker in dated:
        residual, best = noise.residuals[breaker], found[-1] if found else None
        if best and best.residual <= residual:
            residual, breaker = best.residual, best.breaker
        if best and best.year == year:
            found.pop()
        found.append(YearResidual(year, residual, breaker))
    return found


def undated_breakers(noise: NoiseRow, breakers: Sequence[BreakerRow]) -> list[str]:
    """Return the breakers that were run against a noise and whose paper states no year, without plain training."""
    names = [row.breaker for row in breakers if row.year is None and row.breaker != PLAIN_TRAINING]
    return sorted(name for name in names if name in noise.residuals)
