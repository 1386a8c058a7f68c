"""Ranks results: the ordered rows of every comparable group of results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from uebench.board.groups import BUDGET_CLASSES, comparable_groups, group_setting, group_title, required_labels
from uebench.board.rank_sets import rank_sets
from uebench.board.rows import BreakerRow, NoiseRow
from uebench.board.standings import Standings
from uebench.planning.suite import Suite
from uebench.storage.history import Rulings
from uebench.storage.result import Result

ROUNDING_DIGITS = 9
"""Decimals of an accuracy in [0, 1]; equal values after rounding share a rank."""


@dataclass(frozen=True)
class Board:
    """The ranked rows of one comparable group of results: same data set, protected share and recipe.

    The title consists of the setting (data set and share) and the recipe. `targets` maps every target in the record to
    whether a rank needs it, the needed ones first. `single_seeds` has the board of each seed alone, if the setting has
    another recipe too.
    """

    title: str
    setting: str
    recipe: str
    noises: Sequence[NoiseRow]
    breakers: Sequence[BreakerRow]
    targets: Mapping[str, bool]
    single_seeds: tuple[Board, ...] = ()

    @property
    def reference(self) -> NoiseRow | None:
        """The row of clean images."""
        return next((row for row in self.noises if row.status == "reference"), None)

    @property
    def rows_with_rank(self) -> list[NoiseRow]:
        """The rows of noises with a rank, provisional ones included, in order."""
        return [row for row in self.noises if row.has_rank]


NO_RULINGS = Rulings()


def rank_results(suite: Suite, results: Iterable[Result], rulings: Rulings = NO_RULINGS) -> list[Board]:
    """Return the boards of a suite; raises `UserError` for an unknown required component.

    A withdrawn noise keeps its numbers and loses its rank. A breaker accepted against a noise counts for the noise's
    residual protection like the required breakers.
    """
    boards = []
    groups = comparable_groups(results)
    recipes = Counter(setting for setting, _ in {(group_setting(group[0]), group[0].recipe) for group in groups})
    for group in groups:
        breakers, targets = required_labels(suite.part(group[0].parameters["dataset"].partition("@")[0]))
        seeds = sorted({result.seed for result in group}) if recipes[group_setting(group[0])] > 1 else []
        board, *single_seeds = (
            _make_board(Standings(records, breakers, targets, suite.floor, rulings))
            for records in (group, *([result for result in group if result.seed == seed] for seed in seeds))
        )
        boards.append(replace(board, single_seeds=tuple(single_seeds)))
    return boards


def _make_board(standings: Standings) -> Board:
    """Return the board of one group, its rows in order."""

    def sort_key(row: NoiseRow) -> tuple[bool, int, float, str]:
        residual = np.inf if row.residual_protection is None else -row.residual_protection
        return row.status != "reference", BUDGET_CLASSES.index(row.budget), residual, row.noise

    unranked = sorted((standings.noise_row(noise) for noise in standings.noises), key=sort_key)
    noises = [
        row
        for _, rows in groupby(unranked, lambda row: (row.status == "reference", row.budget))
        for row in _rank_rows(list(rows), standings)
    ]
    with_rank = [row.parameters for row in noises if row.has_rank]
    breakers = [standings.breaker_row(chain, with_rank) for chain in sorted(standings.all_breakers)]
    breakers.sort(key=lambda row: (np.inf if row.recovered is None else -row.recovered, row.breaker))
    breaker_ranks = _competition_ranks([row.recovered for row in breakers])
    first = standings.records[0]
    return Board(
        group_title(first),
        group_setting(first),
        first.recipe,
        noises,
        [replace(row, rank=rank) for row, rank in zip(breakers, breaker_ranks, strict=True)],
        {standings.labels[target]: target in standings.required_targets for target in standings.all_targets},
    )


def _rank_rows(rows: list[NoiseRow], standings: Standings) -> list[NoiseRow]:
    """Return the rows of one budget class with rank and rank set.

    A provisional row gets the rank that it would have with enough seeds; the ranks of other rows ignore it.
    """
    with_rank = [row for row in rows if row.has_rank]
    ranked = [row for row in with_rank if row.status == "ranked"]
    ranks = dict[str, int | None]()
    for group in (with_rank, ranked):
        group_ranks = _competition_ranks([row.residual_protection for row in group])
        ranks |= {row.parameters: rank for row, rank in zip(group, group_ranks, strict=True)}
    compared = [row.parameters for row in ranked or with_rank]
    sets = dict[str, tuple[int, int]]()
    values = standings.comparison_values(compared)
    if values is not None:
        sets = dict(zip(compared, rank_sets(values), strict=True))
    unknown = (None, None)
    return [
        replace(
            row,
            rank=ranks.get(row.parameters),
            rank_low=sets.get(row.parameters, unknown)[0],
            rank_high=sets.get(row.parameters, unknown)[1],
        )
        for row in rows
    ]


def _competition_ranks(values: Sequence[float | None]) -> list[int | None]:
    """Return the rank of each value, 1 for the highest; equal values share the best rank, None has no rank."""
    rounded = [None if value is None else round(value, ROUNDING_DIGITS) for value in values]
    known = [value for value in rounded if value is not None]
    return [None if value is None else 1 + sum(other > value for other in known) for value in rounded]
