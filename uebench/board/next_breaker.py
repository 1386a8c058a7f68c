"""Estimates how much ranks depend on the list of breakers, and how far the next breaker may lower a residual."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from uebench.board.intervals import Values
from uebench.board.ranking import Board
from uebench.board.rows import NoiseRow

PREDICTION_COVERAGE = 0.9
"""Probability that the residual stays above the lower end of its prediction interval."""
FEWEST_BREAKERS = 4
"""Fewest breakers for a prediction, and for a section on a board."""
EQUAL_RESIDUALS = 1e-9
"""Residuals that differ by rounding only share a rank."""


@dataclass(frozen=True)
class LeftOut:
    """The residual and rank that one noise would have without one breaker."""

    breaker: str
    residual: float
    rank: int


@dataclass(frozen=True)
class NoiseDependence:
    """How a noise's best-known residual, and its rank by it, depend on single breakers.

    `without` leaves out the breaker that recovers most. `rank_low` to `rank_high` are the ranks that the noise can have
    when any one breaker is left out. Ranks are within the budget class.
    """

    row: NoiseRow
    residual: float
    rank: int
    without: LeftOut
    rank_low: int
    rank_high: int


@dataclass(frozen=True)
class BreakerDependence:
    """How a board depends on its list of breakers.

    `breakers` is the number of those that were run against every noise with a rank. `drop` bounds how far the next
    breaker lowers a residual; `held` is the share of noises and breakers for which the bound from the other breakers
    held. Both are None for too few breakers.
    """

    noises: Sequence[NoiseDependence]
    breakers: int
    drop: float | None
    held: float | None


def breaker_dependence(board: Board) -> BreakerDependence | None:
    """Return how a board depends on its list of breakers; None for fewer than `FEWEST_BREAKERS` complete ones."""
    rows = board.rows_with_rank
    complete = [name for name in rows[0].residuals if all(name in row.residuals for row in rows)] if rows else []
    if len(complete) < FEWEST_BREAKERS:
        return None
    recovered = _recovered_values(rows, complete)
    noises = list[NoiseDependence]()
    for _, group in groupby(rows, lambda row: row.budget):
        noises += _class_dependence(list(group))
    return BreakerDependence(noises, len(complete), prediction_drop(recovered), prediction_coverage(recovered))


def _class_dependence(rows: Sequence[NoiseRow]) -> list[NoiseDependence]:
    """Return how the noises of one budget class depend on single breakers, the highest residual first."""
    breakers = list(dict.fromkeys(name for row in rows for name in row.residuals))
    recovered = _recovered_values(rows, breakers)
    residuals = -recovered.max(1)
    noises = []
    for row, residual, left_out in zip(rows, residuals, leave_breakers_out(recovered, 0.0, breakers), strict=True):
        ranks = [without.rank for without in left_out]
        rank = 1 + int((residuals > residual + EQUAL_RESIDUALS).sum())
        strongest = max(left_out, key=lambda without: without.residual)
        noises.append(NoiseDependence(row, float(residual), rank, strongest, min(ranks), max(ranks)))
    return sorted(noises, key=lambda noise: (noise.rank, noise.row.noise))


def _recovered_values(rows: Sequence[NoiseRow], breakers: Sequence[str]) -> Values:
    """Return minus the residual of each noise against each breaker alone (noises, breakers); -inf if it was not run."""
    return np.array([[-row.residuals.get(name, np.inf) for name in breakers] for row in rows])


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
        ranks = 1 + (residuals[None] > residuals[:, None] + EQUAL_RESIDUALS).sum(1)
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
