"""Says how much a rank depends on the list of breakers, and how far the next breaker is likely to lower a residual."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from uebench.board.intervals import Values

PREDICTION_COVERAGE = 0.9
"""Probability that the residual stays above the lower end of its prediction interval."""
FEWEST_BREAKERS = 4
"""Breakers that a prediction needs: with fewer, hardly any can be left out."""


@dataclass(frozen=True)
class LeftOut:
    """What one noise's residual and rank would be without one breaker."""

    breaker: str
    residual: float
    rank: int


def leave_breakers_out(recovered: Values, clean: float, breakers: Sequence[str]) -> list[list[LeftOut]]:
    """Return, for every noise, its residual and rank without each breaker in turn.

    `recovered` (noises, breakers) has mean accuracies on protected images; `clean` is the accuracy of plain training on
    clean images. The residual is `clean` minus the highest accuracy, and the lowest rank has the highest residual.
    Raises `ValueError` for fewer than two breakers.
    """
    if len(breakers) < 2:
        raise ValueError("leaving a breaker out needs at least two")
    columns = []
    for index, breaker in enumerate(breakers):
        residuals = clean - np.delete(recovered, index, axis=1).max(1)
        ranks = 1 + (residuals[None] > residuals[:, None] + 1e-9).sum(1)  # equal but for rounding: one rank
        columns.append(
            [LeftOut(breaker, float(value), int(rank)) for value, rank in zip(residuals, ranks, strict=True)]
        )
    return [list(row) for row in zip(*columns, strict=True)]


def prediction_drop(recovered: Values, coverage: float = PREDICTION_COVERAGE) -> float | None:
    """Return by how much, at most, the next breaker lowers a residual with this probability; None if nothing tells.

    Each breaker in turn is the new one; what it adds to the highest accuracy of the others is one observation for each
    noise. Their quantile, corrected for the number of breakers, is a conformal bound (Vovk, Gammerman and Shafer,
    "Algorithmic Learning in a Random World", 2005). It assumes that the next breaker is drawn as those on the board
    were, and that noises are lowered alike. A new idea for a breaker breaks the first assumption.
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
    """Return how often the prediction held on this board: the share of noises and breakers, each left out in turn."""
    held = list[Values]()
    for index in range(recovered.shape[1]):
        known = np.delete(recovered, index, axis=1)
        drop = prediction_drop(known, coverage)
        if drop is not None:
            held.append(recovered[:, index] - known.max(1) <= drop + 1e-12)
    return float(np.mean(held)) if held else None
