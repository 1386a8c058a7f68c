"""Whether two recipes order noises alike: Kendall's tau between the boards that they give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import pandas as pd

from uebench.board.ranking import Board

FEWEST_NOISES = 3
"""Noises of which an order can be compared."""
RESIDUAL = "residual"


@dataclass(frozen=True)
class RankAgreement:
    """How two recipes order the noises that both have been used on, by accuracy under a breaker, or by what is left.

    `tau` is Kendall's tau-b: 1 where the orders are the same, -1 where one is the other reversed; None where a recipe
    gives all noises one value. Beside itself, a recipe is compared seed by seed, each with each other, and `tau` is the
    mean. `seconds` are those that training one network took with each recipe.
    """

    setting: str
    recipes: tuple[str, str]
    order: str
    noises: int
    tau: float | None
    seconds: tuple[float | None, float | None]


def rank_agreements(boards: Sequence[Board]) -> Iterator[RankAgreement]:
    """Yield, for boards that differ in their recipe alone, the concordance of residual protection and every breaker.

    Then each recipe beside itself, as far as it has several seeds: how much of an order is chance. Where there is one
    breaker, both orders are the same. The clean set is no noise.
    """
    for pair in combinations(boards, 2):
        if pair[0].setting == pair[1].setting and pair[0].recipe != pair[1].recipe:  # else the content is another
            yield from _alike(pair, [pair])
    for board in boards:
        yield from _alike((board, board), list(combinations(board.alone, 2)))


def _alike(boards: tuple[Board, Board], pairs: Sequence[tuple[Board, Board]]) -> Iterator[RankAgreement]:
    """Yield the concordance of two recipes for every order, as the mean over pairs of boards, one by each recipe."""
    found = dict[str, list[tuple[int, float]]]()
    for pair in pairs:
        tables = [board.noises[board.noises["status"] != "reference"].set_index("parameters") for board in pair]
        columns = [name for name in tables[0] if name in tables[1] and str(name).startswith("accuracy ")]
        for column in columns if len(columns) == 1 else ["residual_protection", *columns]:
            # what differs by rounding only is equal
            both = pd.concat([table[column].astype(float).round(9) for table in tables], axis=1, join="inner").dropna()
            if len(both) >= FEWEST_NOISES:
                order = str(column).removeprefix("accuracy ") if column in columns else RESIDUAL
                tau = both.iloc[:, 0].corr(both.iloc[:, 1], method="kendall")
                found.setdefault(order, []).append((len(both), float(tau)))
    times = [board.breakers.set_index("breaker")["train_seconds"] for board in boards]
    for order, taus in found.items():
        known = [tau for _, tau in taus if not pd.isna(tau)]
        yield RankAgreement(
            setting=boards[0].setting,
            recipes=(boards[0].recipe, boards[1].recipe),
            order=order,
            noises=min(noises for noises, _ in taus),
            tau=sum(known) / len(known) if known else None,
            seconds=(times[0].get(order), times[1].get(order)),
        )
