"""Whether two recipes order noises alike: Kendall's tau between the boards that they give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import pandas as pd

from uebench.ranking import Board

LEAST = 3
"""Noises of which an order can be compared."""
RESIDUAL = "residual"


@dataclass(frozen=True)
class Concordance:
    """How two recipes order the noises that both have been used on, by accuracy under a breaker, or by what is left.

    `tau` is Kendall's tau-b: 1 where the orders are the same, -1 where one is the other reversed; None where a recipe
    gives all noises one value. `seconds` are those that training one network took with each recipe.
    """

    setting: str
    recipes: tuple[str, str]
    order: str
    noises: int
    tau: float | None
    seconds: tuple[float | None, float | None]


def concordances(boards: Sequence[Board]) -> Iterator[Concordance]:
    """Yield, for boards that differ in their recipe alone, the concordance of residual protection and every breaker.

    Where there is one breaker, both are the same. The clean set is no noise.
    """
    for pair in combinations(boards, 2):
        if pair[0].setting != pair[1].setting or pair[0].recipe == pair[1].recipe:  # then the content is another
            continue
        tables = [board.noises[board.noises["status"] != "reference"].set_index("parameters") for board in pair]
        times = [board.breakers.set_index("breaker")["train_seconds"] for board in pair]
        columns = [name for name in tables[0] if name in tables[1] and str(name).startswith("accuracy ")]
        for column in columns if len(columns) == 1 else ["residual_protection", *columns]:
            # what differs by rounding only is equal
            values = [table[column].astype(float).round(9) for table in tables]
            both = pd.concat(values, axis=1, join="inner").dropna()
            if len(both) < LEAST:
                continue
            order = str(column).removeprefix("accuracy ") if column in columns else RESIDUAL
            tau = both.iloc[:, 0].corr(both.iloc[:, 1], method="kendall")
            yield Concordance(
                setting=pair[0].setting,
                recipes=(pair[0].recipe, pair[1].recipe),
                order=order,
                noises=len(both),
                tau=None if pd.isna(tau) else float(tau),
                seconds=(times[0].get(order), times[1].get(order)),
            )
