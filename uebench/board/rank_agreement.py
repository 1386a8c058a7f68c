"""Measures how alike two recipes order noises: Kendall's tau between their boards."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from uebench.board.columns import breaker_names
from uebench.board.ranking import ROUNDING_DIGITS, Board
from uebench.board.rows import NoiseRow

FEWEST_NOISES = 3
"""Fewest noises for which orders are compared."""
RESIDUAL = "residual"
"""The order by residual protection; every other order is by accuracy under a breaker and has the breaker's name."""


@dataclass(frozen=True)
class RankAgreement:
    """How alike two recipes order the noises that both have, by residual protection or accuracy under a breaker.

    `tau` is Kendall's tau-b: 1 for equal orders, -1 for reversed ones; None if a recipe gives all noises one value. For
    a recipe compared with itself, `tau` is the mean over pairs of seeds. `seconds` is the median time of training one
    network with each recipe.
    """

    setting: str
    recipes: tuple[str, str]
    order: str
    noises: int
    tau: float | None
    seconds: tuple[float | None, float | None]


def rank_agreements(boards: Sequence[Board]) -> Iterator[RankAgreement]:
    """Yield the agreement of boards that differ only in their recipe, by residual protection and by every breaker.

    Then yield that of each recipe with itself, if it has several seeds: it shows how much of an order is chance. With a
    single breaker both orders are equal, and only one is given. The clean set does not count as a noise.
    """
    for pair in combinations(boards, 2):
        if (
            pair[0].setting == pair[1].setting and pair[0].recipe != pair[1].recipe
        ):  # equal settings and recipes: the data differ
            yield from _compare_orders(pair, [pair])
    for board in boards:
        if board.single_seeds:
            yield from _compare_orders((board, board), list(combinations(board.single_seeds, 2)))


def _compare_orders(boards: tuple[Board, Board], pairs: Sequence[tuple[Board, Board]]) -> Iterator[RankAgreement]:
    """Yield the agreement of two recipes for every order, as the mean over pairs of boards (one of each recipe)."""
    from scipy import stats  # slow to import, and few boards have two recipes

    taus = dict[str, list[tuple[int, float]]]()
    for first, second in pairs:
        shared = [name for name in breaker_names(first, False) if name in breaker_names(second, False)]
        for order in shared if len(shared) == 1 else [RESIDUAL, *shared]:
            values = [_ordering_values(board, order) for board in (first, second)]
            noises = [noise for noise in values[0] if noise in values[1]]
            if len(noises) >= FEWEST_NOISES:
                tau = stats.kendalltau(
                    *([board_values[noise] for noise in noises] for board_values in values)
                ).statistic
                taus.setdefault(order, []).append((len(noises), float(tau)))
    times = [{row.breaker: row.train_seconds for row in board.breakers} for board in boards]
    for order, pair_taus in taus.items():
        known = [tau for _, tau in pair_taus if not math.isnan(tau)]
        yield RankAgreement(
            setting=boards[0].setting,
            recipes=(boards[0].recipe, boards[1].recipe),
            order=order,
            noises=min(noises for noises, _ in pair_taus),
            tau=sum(known) / len(known) if known else None,
            seconds=(times[0].get(order), times[1].get(order)),
        )


def _ordering_values(board: Board, order: str) -> dict[str, float]:
    """Return the value that orders each noise, by the noise's canonical text."""
    values = {row.parameters: _ordering_value(row, order) for row in board.noises if row.status != "reference"}
    return {noise: round(value, ROUNDING_DIGITS) for noise, value in values.items() if value is not None}


def _ordering_value(row: NoiseRow, order: str) -> float | None:
    if order == RESIDUAL:
        return row.residual_protection
    mean = row.accuracies.get(order)
    return mean.mean if mean else None
