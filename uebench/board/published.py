"""Compares the accuracies of a board with published ones, cell by cell, and checks the claims of papers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from uebench.board.columns import UNKNOWN
from uebench.board.tables import Table
from uebench.components.errors import UserError
from uebench.components.grammar import nearest_match
from uebench.components.registry import plugin_folders
from uebench.components.spec import component_label
from uebench.planning.selection import resolve_recipe
from uebench.planning.suite import Claim, Suite
from uebench.storage.result import Result

CELL_COLUMNS = ["dataset", "noise", "breaker", "target", "protected", "kind"]
"""The columns that match published numbers with results; components go by their label in the suite."""
COMPARISON_COLUMNS = [*CELL_COLUMNS, "percent", "source", "doubt"]


def published_files() -> dict[str, Path]:
    """Return the files in the `published` folders of plug-ins, by suite."""
    return {path.stem: path for folder in plugin_folders("published") for path in sorted(folder.glob("*.csv"))}


def read_published(suite: Suite) -> pd.DataFrame | None:
    """Return the published cells of a suite, `percent` from 0 to 100; None if it has claims only.

    Raises `UserError` if it has neither published numbers nor claims.
    """
    path = published_files().get(suite.name)
    if path is None and not suite.claims:
        raise UserError(f"suite {suite.name} has no published numbers{nearest_match(suite.name, published_files())}")
    if path is None:
        return None
    types = {column: float if column in ("percent", "protected") else str for column in COMPARISON_COLUMNS}
    table = pd.read_csv(path, dtype=types, keep_default_na=False)
    if list(table.columns) != COMPARISON_COLUMNS:
        raise UserError(f"{path} must have the columns {', '.join(COMPARISON_COLUMNS)}")
    if table.duplicated(CELL_COLUMNS).any():
        raise UserError(f"{path} has two rows for one cell")
    return table


def measured_cells(suite: Suite, results: Iterable[Result]) -> pd.DataFrame:
    """Return mean and deviation over seeds (percent) and number of seeds of every cell with a recipe of the suite."""
    recipes = {component_label(resolve_recipe(part)) for part in suite.parts}
    rows = [
        {**{name: getattr(result, name) for name in CELL_COLUMNS}, "ours": 100 * result.test_accuracy}
        for result in results
        if result.recipe in recipes
    ]
    table = pd.DataFrame(rows, columns=[*CELL_COLUMNS, "ours"])
    means = table.groupby(CELL_COLUMNS)["ours"].agg(["mean", "std", "count"]).reset_index()
    return means.rename(columns={"mean": "ours", "std": "deviation", "count": "seeds"})


def join_published(published: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """Return the published cells in their order, each with our accuracy; it is NaN for a cell that was not run."""
    table = published.merge(measured, how="left", on=CELL_COLUMNS)
    table["difference"] = table["ours"] - table["percent"]
    table["seeds"] = table["seeds"].fillna(0).astype(int)
    return table[[*CELL_COLUMNS, "percent", "ours", "deviation", "seeds", "difference", "doubt", "source"]]


@dataclass(frozen=True)
class Verdict:
    """How many of a claim's comparisons hold, which fail, and how many miss a number (`missing`)."""

    claim: Claim
    holds: int
    fails: Sequence[str]
    missing: int

    def __str__(self) -> str:
        compared = self.holds + len(self.fails)
        if not compared:
            return "no comparison possible"
        outcome = "fails" if self.fails else "holds"
        missing = f", {self.missing} missing" if self.missing else ""
        return f"{outcome} ({self.holds} of {compared}{missing})"


def comparison_tables(cells: pd.DataFrame) -> dict[str, Table]:
    """Return the comparison by title, in the form of the papers' tables.

    There is a row for each noise; the columns are the breakers, targets or shares, whichever are most. A cell has the
    published number and ours, in percent; a star marks a doubtful published number.
    """
    cells = cells.assign(share=[_share_text(*pair) for pair in zip(cells["protected"], cells["kind"], strict=True)])
    counts = {dimension: cells[dimension].nunique() for dimension in ("breaker", "target", "share")}
    column_dimension = max(counts, key=lambda dimension: counts[dimension])
    title_dimensions = ["dataset", *(dimension for dimension in counts if dimension != column_dimension)]
    tables = {}
    for values, part in cells.groupby(title_dimensions, sort=False):
        texts = {(cell["noise"], cell[column_dimension]): _cell_text(cell) for cell in part.to_dict("records")}
        noises, columns = dict.fromkeys(part["noise"]), list(dict.fromkeys(part[column_dimension]))
        rows = [[noise, *(texts.get((noise, column), UNKNOWN) for column in columns)] for noise in noises]
        tables[", ".join(map(str, values))] = (["noise", *columns], rows)
    return tables


def doubted_cells(cells: pd.DataFrame) -> list[str]:
    """Return a line for each reason to doubt published numbers, with the number of cells."""
    counts = Counter(cell["doubt"] for cell in cells.to_dict("records") if cell.get("doubt"))
    return [f"* {doubt} ({count} cell{'s' * (count > 1)})" for doubt, count in counts.items()]


def _share_text(share: float, kind: str) -> str:
    """Return a protected share in words."""
    return "all protected" if (share, kind) == (1, "mixed") else f"{share:.0%} {kind}"


def _cell_text(cell: Mapping[Hashable, Any]) -> str:
    """Return the published number and ours as text."""
    deviation = "" if pd.isna(cell["deviation"]) else f" ± {cell['deviation']:.2f}"
    ours = f"{cell['ours']:.2f}{deviation}" if cell["seeds"] > 0 else UNKNOWN
    if "percent" not in cell:
        return ours
    return f"{cell['percent']:.2f}{'*' * bool(cell['doubt'])} / {ours}"


def judge_claim(claim: Claim, table: pd.DataFrame, column: str) -> Verdict:
    """Compare every pair of cells of a claim, on fully protected sets, by the values of `column` (percent)."""
    fully_protected = table[(table["protected"] == 1) & (table["kind"] == "mixed")]
    values = {
        (cell.dataset, cell.target, cell.breaker, cell.noise): getattr(cell, column)
        for cell in fully_protected.itertuples()
        if pd.notna(getattr(cell, column))
    }
    columns = (fully_protected[name] for name in ("dataset", "target", "breaker"))
    settings = list(dict.fromkeys(zip(*columns, strict=True)))
    holds, fails, missing = 0, [], 0
    for setting, low_noise, high_noise in _claimed_pairs(claim, settings):
        low, high = values.get((*setting, low_noise)), values.get((*setting, high_noise))
        if low is None or high is None:
            missing += 1
        elif low < high:
            holds += 1
        else:
            fails.append(f"{' / '.join(setting)}: {low_noise} {low:.2f}, {high_noise} {high:.2f}")
    return Verdict(claim, holds, fails, missing)


def _claimed_pairs(
    claim: Claim, settings: Sequence[tuple[str, str, str]]
) -> Iterator[tuple[tuple[str, str, str], str, str]]:
    """Yield (setting, noise, noise), where the claim says that the first noise has the lower accuracy."""
    for setting in settings:
        if not claim.breakers or setting[2] in claim.breakers:
            yield from product([setting], claim.lower, claim.higher)


def judge_claims(suite: Suite, published: pd.DataFrame | None, measured: pd.DataFrame) -> Sequence[Mapping[str, str]]:
    """Return, for each claim of a suite, the verdict by the published numbers and by ours."""
    rows = []
    cells = measured if published is None else join_published(published, measured)
    for claim in suite.claims:
        published_verdict = "no numbers" if published is None else str(judge_claim(claim, published, "percent"))
        our_verdict = judge_claim(claim, cells, "ours")
        rows.append(
            {
                "claim": claim.says,
                "published": published_verdict,
                "ours": str(our_verdict),
                "fails here": "; ".join(our_verdict.fails),
            }
        )
    return rows
