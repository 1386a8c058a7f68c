"""Confidence intervals over few seeds: means with draws around them, and the bounds that the draws give."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
"""How often an interval holds the true value."""
DRAWS = 10_000
Values = NDArray[np.float64]


@cache
def _weights(seeds: tuple[int, ...]) -> Values:
    """Return weights (n, draws) that turn deviations from the mean over n seeds into errors of that mean.

    A seed has the same normal weights wherever it occurs, which pairs all entries by seed. With a chi-square draw in
    common the errors of one mean follow Student's distribution: few seeds give intervals as wide as they must be, which
    drawing seeds with replacement does not (three seeds have ten such draws). Half of the draws mirror the others.
    """
    count, half = len(seeds), DRAWS // 2
    if count < 2:
        return np.empty((count, 0))
    normal = np.stack([np.random.default_rng([1, seed]).standard_normal(half) for seed in seeds])
    scale = np.random.default_rng([2, count]).chisquare(count - 1, half) / (count - 1)
    errors = normal / np.sqrt(scale * count * (count - 1))
    return np.concatenate([errors, -errors], 1)


def means_with_draws(values: Values, seeds: tuple[int, ...]) -> Values:
    """Return means (..., 1 + draws) of values (..., n) over seeds: the mean itself, and draws around it."""
    middle = values.mean(-1, keepdims=True)
    return np.concatenate([middle, middle + (values - middle) @ _weights(seeds)], -1)


def confidence_interval(drawn: Values) -> tuple[float | None, float | None]:
    """Return the bounds of a statistic, given it and its draws (1 + draws,); None for a single seed.

    This is the basic interval of the bootstrap: the highest of several means is too high on average, that of draws
    around them by as much again, and reflecting the draws takes both away.
    """
    if len(drawn) == 1 or not np.isfinite(drawn).all():
        return None, None
    tail = (1 - CONFIDENCE) / 2
    high, low = np.quantile(drawn[1:], [tail, 1 - tail])
    return float(2 * drawn[0] - low), float(2 * drawn[0] - high)
