"""Computes, for every noise, the set of ranks that the seeds allow, by simultaneous comparisons of all pairs.

The idea is that of Mogstad, Romano, Shaikh and Wilhelm, "Inference for Ranks with Applications to Mobility across
Neighbourhoods and Academic Achievement across Countries", 2024, section 3: the best rank of a noise is one more than
the number of noises that are significantly better, its worst rank is the number of noises that are not significantly
worse. Their theory needs many observations; a board has three to five seeds. So each variance is moderated by all
others (Smyth, "Linear Models and Empirical Bayes Methods for Assessing Differential Expression in Microarray
Experiments", 2004), and the draws behind the critical value also vary the variances and the strongest breaker.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from uebench.board.intervals import CONFIDENCE, Values

RANK_DRAWS = 4000
PRIOR_SHARE = 1 / 3
"""Share of the prior's estimated degrees of freedom that is used.

Simulated boards with three seeds, whose variances differ by a factor of 100: with all degrees of freedom, 85 to 92 % of
the boards had sets that hold the true ranks; with a third, 95 % or more. See `tests/board/rank_coverage.py`.
"""
SMALLEST_VARIANCE = 1e-3
"""Smallest variance of a cell, as a share of the median; seeds can have equal accuracies by chance."""


def rank_sets(values: Values, coverage: float = CONFIDENCE) -> list[tuple[int, int]]:
    """Return the lowest and the highest rank that each noise can have; rank 1 is the highest residual protection.

    `values` (noises, cells, seeds) has, for every noise, required cell (breaker and target) and seed, the accuracy on
    protected images minus that of plain training on clean images. A noise is compared by the highest mean of its cells.
    A seed has the same index everywhere, so comparisons are paired. A cell that only some noises have is NaN for the
    others, in all seeds. `coverage` is the probability that the sets of all noises hold their true ranks. Raises
    `ValueError` for fewer than two seeds.
    """
    noises, cells, seeds = values.shape
    if seeds < 2:
        raise ValueError(f"rank sets need at least two seeds, not {seeds}")
    known = np.asarray(np.isfinite(values).all(-1))
    means = np.where(known, values.mean(-1), -np.inf)
    shared, variances = _separate_shared_errors(values, known)
    moderated, freedom = moderate_variances(variances[known], seeds - 1)
    variances = np.zeros((noises, cells))
    variances[known] = moderated
    random = np.random.default_rng(0)  # a board always gets the same sets
    errors = random.standard_normal((RANK_DRAWS, noises, cells)) * np.sqrt(variances / seeds)
    errors += random.standard_normal((RANK_DRAWS, 1, cells)) * np.sqrt(shared / seeds)
    scale = np.ones(1) if np.isinf(freedom) else random.chisquare(freedom, errors.shape) / freedom
    differences, deviations = _compare_pairs(means, variances, shared, seeds)
    drawn, drawn_deviations = _compare_pairs(means + errors, variances * scale, shared, seeds)
    statistics = (drawn - differences) / drawn_deviations
    worse = np.zeros((noises, noises), bool)  # [i, j]: noise i protects significantly less than noise j
    open_pairs = ~np.eye(noises, dtype=bool)
    while open_pairs.any():
        critical = np.quantile(np.where(open_pairs, statistics, -np.inf).max((1, 2)), coverage)
        decided = open_pairs & (differences > critical * deviations)
        if not decided.any():
            break
        worse |= decided
        open_pairs &= ~decided  # step-down: decided pairs no longer raise the critical value
    return [(1 + int(row.sum()), noises - int(column.sum())) for row, column in zip(worse, worse.T, strict=True)]


def moderate_variances(variances: Values, freedom: float) -> tuple[Values, float]:
    """Return variances (n,) shrunk towards a common value, and their degrees of freedom.

    Equal variances are pooled, with infinite degrees of freedom; the more the variances differ, the less they shrink.
    """
    positive = variances[variances > 0]
    if len(positive) < 2:
        return variances, freedom
    floored = np.maximum(variances, SMALLEST_VARIANCE * np.median(positive))
    logarithms = np.log(floored) - special.digamma(freedom / 2) + np.log(freedom / 2)
    excess = logarithms.var(ddof=1) - special.polygamma(1, freedom / 2)
    if excess <= 0:
        return np.full_like(floored, np.exp(logarithms.mean())), np.inf
    half = optimize.brentq(lambda value: special.polygamma(1, value) - excess, 1e-6, 1e8)
    centre = np.exp(logarithms.mean() + special.digamma(half) - np.log(half))
    prior = 2 * half * PRIOR_SHARE
    return (prior * centre + freedom * floored) / (prior + freedom), prior + freedom


def _separate_shared_errors(values: Values, known: NDArray[np.bool_]) -> tuple[Values, Values]:
    """Return the variance of the error that all noises share in a cell (cells,), and of the rest (noises, cells).

    A seed fixes initial weights and the order of batches, so all noises share a part of its error, which cancels in a
    comparison within one cell. That part is estimated only if at least three noises have the cell; otherwise it is 0.
    """
    freedom = values.shape[-1] - 1
    deviations = np.where(known[..., None], values - values.mean(-1, keepdims=True), 0.0)
    counts = known.sum(0)
    enough = counts >= 3
    common = np.where(enough[:, None], deviations.sum(0) / np.maximum(counts, 1)[:, None], 0.0)
    rest = np.where(known[..., None], deviations - common, 0.0)
    correction = np.where(enough, counts / np.maximum(counts - 1, 1), 1.0)
    variances = (rest**2).sum(-1) / freedom * correction
    mean_variance = variances.sum(0) / np.maximum(counts, 1)
    shared = (common**2).sum(-1) / freedom - mean_variance / np.maximum(counts, 1)
    return np.where(enough, np.maximum(shared, 0.0), 0.0), variances


def _compare_pairs(means: Values, variances: Values, shared: Values, seeds: int) -> tuple[Values, Values]:
    """Return the difference of the highest means of each pair of noises (..., n, n), and its standard deviation."""
    cell = means.argmax(-1)
    highest = np.take_along_axis(means, cell[..., None], -1)[..., 0]
    variance = np.take_along_axis(np.broadcast_to(variances, means.shape), cell[..., None], -1)[..., 0]
    other_cell = cell[..., :, None] != cell[..., None, :]
    common = shared[cell]
    total = variance[..., :, None] + variance[..., None, :]
    total = total + other_cell * (common[..., :, None] + common[..., None, :])
    difference = highest[..., :, None] - highest[..., None, :]
    return difference, np.sqrt(np.maximum(total, np.finfo(float).tiny) / seeds)
