"""The tables of a board for people: head and rows of plain text."""

from __future__ import annotations

from collections.abc import Sequence

from uebench.board.columns import (
    BREAKER_COLUMNS,
    NOISE_COLUMNS,
    UNKNOWN,
    breaker_names,
    decimal,
    noise_remarks,
    percent_mean,
)
from uebench.board.rank_agreement import RESIDUAL, rank_agreements
from uebench.board.ranking import Board
from uebench.board.rows import NoiseRow

Table = tuple[list[str], list[list[str]]]
"""Head and rows."""


def noise_table(board: Board, brief: bool = False) -> Table:
    """Return the table of noises; the brief one leaves out how visible they are."""
    breakers = breaker_names(board, required=True)
    columns = [
        column
        for column in NOISE_COLUMNS
        if (column.header or column.key == "accuracies") and not (brief and column.detail)
    ]
    several = len({row.budget for row in board.noises if row.status != "reference"}) > 1
    head, rows = list[str](), []
    for column in columns:
        head += breakers if column.key == "accuracies" else [column.header]
    for row in board.noises:
        cells = list[str]()
        for column in columns:
            if column.key == "accuracies":
                cells += [percent_mean(row.accuracies.get(name)) for name in breakers]
            else:
                cells.append(column.text(row))
        budget = [row.budget] if several and row.status != "reference" else []
        rows.append([*cells, ", ".join([*noise_remarks(row), *budget])])
    return [*head, "remarks"], rows


def breaker_matrix(board: Board) -> Table:
    """Return the accuracies of every noise under every breaker; breakers that no rank needs are in parentheses."""
    needed, breakers = breaker_names(board, required=True), breaker_names(board, required=False)
    head = ["rank", "noise", *(name if name in needed else f"({name})" for name in breakers)]
    rows = [
        [_plain_rank(row), row.noise, *(percent_mean(row.accuracies.get(name)) for name in breakers)]
        for row in board.noises
    ]
    return head, rows


def target_table(board: Board) -> Table:
    """Return what every noise leaves on every target; targets that no rank needs are in parentheses."""
    head = ["rank", "noise", *(name if needed else f"({name})" for name, needed in board.targets.items())]
    rows = [
        [_plain_rank(row), row.noise, *(percent_mean(row.targets.get(name)) for name in board.targets)]
        for row in board.noises
    ]
    return head, rows


def breaker_table(board: Board) -> Table:
    """Return the table of breakers."""
    columns = [column for column in BREAKER_COLUMNS if column.header]
    return [column.header for column in columns], [[column.text(row) for column in columns] for row in board.breakers]


def recipe_table(boards: Sequence[Board]) -> Table:
    """Return how alike recipes order noises; no rows where no two boards differ only in their recipe."""
    head = ["order by", "recipe", "and recipe", "on", "noises", "Kendall tau", "training s"]
    rows = [
        [
            agreement.order if agreement.order == RESIDUAL else f"accuracy under {agreement.order}",
            agreement.recipes[0],
            "itself, another seed" if agreement.recipes[0] == agreement.recipes[1] else agreement.recipes[1],
            agreement.setting,
            str(agreement.noises),
            decimal(agreement.tau, 2),
            " / ".join(decimal(seconds, 0) for seconds in agreement.seconds),
        ]
        for agreement in rank_agreements(boards)
    ]
    return head, rows


def _plain_rank(row: NoiseRow) -> str:
    return UNKNOWN if row.rank is None else str(row.rank)
