"""From results to ranks: the tables of every comparable group of results, its rows in their places."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import pandas as pd

from uebench.board.groups import BUDGET_CLASSES, comparable_groups, group_setting, group_title, required_labels
from uebench.board.intervals import rank_bands
from uebench.board.standings import Standings
from uebench.planning.suite import Suite
from uebench.storage.history import Rulings
from uebench.storage.result import Result


@dataclass(frozen=True)
class Board:
    """The tables of one comparable group of results: same data set, protected share and recipe.

    The title is made of the recipe and the setting, which is the rest of it. `targets` says of each target on record
    whether a rank needs it, those that one needs first. `alone` has the board of each seed by itself where the same
    setting has another recipe, too.
    """

    title: str
    setting: str
    recipe: str
    noises: pd.DataFrame
    breakers: pd.DataFrame
    targets: Mapping[str, bool]
    alone: tuple[Board, ...] = ()


NO_RULINGS = Rulings()


def rank_results(suite: Suite, results: Iterable[Result], rulings: Rulings = NO_RULINGS) -> list[Board]:
    """Return the boards of a suite; raises `UserError` for a required component that does not exist.

    A withdrawn noise keeps its numbers and loses its rank. A breaker accepted against a noise counts for its residual
    protection as the required ones do.
    """
    boards = []
    found = comparable_groups(results)
    recipes = Counter(place for place, _ in {(group_setting(group[0]), group[0].recipe) for group in found})
    for group in found:
        breakers, targets = required_labels(suite.part(group[0].parameters["dataset"].partition("@")[0]))
        seeds = sorted({result.seed for result in group}) if recipes[group_setting(group[0])] > 1 else []
        whole, *alone = (
            _board(Standings(records, breakers, targets, suite.floor, rulings))
            for records in [group, *([result for result in group if result.seed == seed] for seed in seeds)]
        )
        boards.append(replace(whole, alone=tuple(alone)))
    return boards


def _board(rows: Standings) -> Board:
    """Return the tables of one group: every row in its place."""
    noises = pd.DataFrame([rows.noise(noise) for noise in sorted({noise for noise, *_ in rows.scores})])
    order = {"first": noises["status"] != "reference", "place": noises["budget"].map(BUDGET_CLASSES.index)}
    ways = {"first": True, "place": True, "residual_protection": False, "noise": True}
    noises = noises.assign(**order).sort_values(list(ways), ascending=list(ways.values())).drop(columns=list(order))
    placed = noises["status"].isin(["ranked", "provisional"])
    for _, whole in noises[placed].groupby("budget"):
        established = whole[whole["status"] == "ranked"]
        for group in (whole, established):  # what is provisional has the place that it would have, and moves nobody
            residual = group["residual_protection"].astype(float).round(9)  # what differs by rounding only is equal
            noises.loc[group.index, "rank"] = residual.rank(method="min", ascending=False).astype(int)
        group = whole if established.empty else established
        noises.loc[group.index, "band"] = rank_bands(group["residual_low"], group["residual_high"])
    ranked = list(noises[placed]["parameters"])
    breakers = pd.DataFrame([rows.breaker(chain, ranked) for chain in sorted([*rows.breakers, *rows.others])])
    breakers = breakers.sort_values(["recovered", "breaker"], ascending=[False, True])
    placed = breakers["recovered"].notna()
    breakers.loc[placed, "rank"] = breakers[placed]["recovered"].round(9).rank(method="min", ascending=False)
    targets = {rows.names[target]: target in rows.targets for target in rows.trained}
    one = rows.records[0]
    return Board(group_title(one), group_setting(one), one.recipe, noises, breakers, targets)
