"""Estimates how much ranks depend on the list of breakers, and how far the next breaker may lower a residual."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from uebench.board.intervals import Values

PREDICTION_COVERAGE = 0.9
"""Probability that the residual stays above the lower end of its prediction interval."""
FEWEST_BREAKERS = 4
"""Fewest breakers for a prediction."""


@dataclass(frozen=True)
class LeftOut:
    """The residual and rank that one noise would have without one breaker."""

    breaker: str
    residual: float
    rank: int


def leave_breakers_out(recovered: Values, clean: float, breakers: Sequence[str]) -> list[list[LeftOut]]:
    """Return, for every noise, its residual and rank without each breaker in turn.

    `recovered` (noises, breakers) has mean accuracies on protected images; `clean` is the accuracy of plain training on
    clean images. The residual is `clean` minus the highest accuracy; the highest residual has rank 1. Raises
    `ValueError` for fewer than two breakers.
    """
    if len(breakers) < 2:
        raise ValueError(f"leaving a breaker out needs at least two breakers, not {len(breakers)}")
    columns = []
    for index, breaker in enumerate(breakers):
        residuals = clean - np.delete(recovered, index, axis=1).max(1)
        ranks = 1 + (residuals[None] > residuals[:, None] + 1e-9).sum(
            1
        )  # residuals that differ by rounding only share a rank
        columns.append(
            [LeftOut(breaker, float(value), int(rank)) for value, rank in zip(residuals, ranks, strict=True)]
        )
    return [list(row) for row in zip(*columns, strict=True)]


def prediction_drop(recovered: Values, coverage: float = PREDICTION_COVERAGE) -> float | None:
    """Return a bound on how far the next breaker lowers a residual, or None where there are too few breakers.

    The bound holds with probability `coverage`. Each breaker in turn is the new one: for each noise, its accuracy above
    the highest of the others is one observation. Their quantile, corrected for the number of breakers, is a conformal
    bound (Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005). It assumes that the next breaker
    is drawn from the same distribution as those on the board, and that drops have one distribution for all noises. A
    breaker with a new idea violates the first assumption.
    """
    count = recovered.shape[1]
    level = coverage * (1 + 1 / count)
    if count < FEWEST_BREAKERS or level > 1:
        return None
    drops = np.stack(
        [np.maximum(recovered[:, index] - np.delete(recovered, index, axis=1).max(1), 0) for index in range(count)]
    )
    return float(np.quantile(drops, level, method="higher"))


def prediction_coverage(recovered: Values, coverage: float = PREDICTION_COVERAGE) -> float | None:
    """Return the share of (noise, breaker) pairs for which the bound from the other breakers holds; None as above."""
    within_bound = list[Values]()
    for index in range(recovered.shape[1]):
        others = np.delete(recovered, index, axis=1)
        drop = prediction_drop(others, coverage)
        if drop is not None:
            within_bound.append(recovered[:, index] - others.max(1) <= drop + 1e-12)
    return float(np.mean(within_bound)) if within_bound else None
