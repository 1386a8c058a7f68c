"""Confidence intervals over few seeds: draws around a mean, and the bounds that follow from them."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
"""Probability that an interval contains the true value."""
DRAWS = 10_000
Values = NDArray[np.float64]


@cache
def _weights(seeds: tuple[int, ...]) -> Values:
    """Return weights (n, draws) that turn deviations from the mean over n seeds into errors of that mean.

    A seed has the same normal weights wherever it occurs, which pairs all entries by seed. A common chi-square draw
    makes the errors of one mean follow Student's distribution, so intervals of few seeds are wide enough. Drawing seeds
    with replacement would not be: three seeds have only ten such draws. Half of the draws mirror the other half.
    """
    count, half = len(seeds), DRAWS // 2
    if count < 2:
        return np.empty((count, 0))
    normal = np.stack([np.random.default_rng([1, seed]).standard_normal(half) for seed in seeds])
    scale = np.random.default_rng([2, count]).chisquare(count - 1, half) / (count - 1)
    errors = normal / np.sqrt(scale * count * (count - 1))
    return np.concatenate([errors, -errors], 1)


def means_with_draws(values: Values, seeds: tuple[int, ...]) -> Values:
    """Return the mean of values (..., n) over seeds, and draws around it, as (..., 1 + draws)."""
    means = values.mean(-1, keepdims=True)
    return np.concatenate([means, means + (values - means) @ _weights(seeds)], -1)


def confidence_interval(
    values: Values, lowest: float = -math.inf, highest: float = math.inf
) -> tuple[float | None, float | None]:
    """Return the bounds of a statistic, given the statistic and its draws (1 + draws,); None for a single seed.

    They lie within `lowest` and `highest`, the values that the statistic can have.

    This is the basic interval of the bootstrap. The highest of several means is biased upwards, and that of draws
    around them is biased by the same amount again; reflecting the draws at the statistic removes both biases.
    """
    if len(values) == 1 or not np.isfinite(values).all():
        return None, None
    statistic, draws = values[0], values[1:]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    bounds = np.clip([2 * statistic - high, 2 * statistic - low], lowest, highest)
    return float(bounds[0]), float(bounds[1])
