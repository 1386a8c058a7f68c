"""The tables of a board for people, as head and rows of plain text."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from uebench.board.columns import (
    BREAKER_COLUMNS,
    NOISE_COLUMNS,
    UNKNOWN,
    breaker_names,
    decimal,
    noise_remarks,
    percent,
    percent_mean,
    range_text,
    rank_text,
    residual_text,
)
from uebench.board.next_breaker import PREDICTION_COVERAGE, BreakerDependence
from uebench.board.rank_agreement import RESIDUAL, rank_agreements
from uebench.board.ranking import Board
from uebench.board.rows import NoiseRow

Table = tuple[list[str], list[list[str]]]
"""Head and rows."""


def noise_table(board: Board, brief: bool = False) -> Table:
    """Return the table of noises; a brief table omits the `detail` columns."""
    breakers = breaker_names(board, required=True)
    columns = [
        column
        for column in NOISE_COLUMNS
        if (column.header or column.key == "accuracies") and not (brief and column.detail)
    ]
    several_budgets = len({row.budget for row in board.noises if row.status != "reference"}) > 1
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
        budget = [row.budget] if several_budgets and row.status != "reference" else []
        rows.append([*cells, ", ".join([*noise_remarks(row), *budget])])
    return [*head, "remarks"], rows


def own_table(board: Board, noises: Collection[str], breakers: Sequence[str]) -> Table:
    """Return these noises of the user's own board and the clean reference, with their accuracies under breakers."""
    head = ["noise", "residual", "highest (breaker)", *breakers]
    rows = [
        [row.noise, *_protection(row), *(percent_mean(row.accuracies.get(name)) for name in breakers)]
        for row in board.noises
        if row.noise in noises or row.is_reference
    ]
    return head, rows


def rank_tables(board: Board) -> dict[str, Table]:
    """Return, for each budget class with a noise of the user, its noises in order and whose results each row has."""
    record_names = {"own": "yours", "both": "yours and published", "published": "published"}
    classes = dict.fromkeys(row.budget for row in board.noises if row.record != "published" and not row.is_reference)
    head = ["noise", "rank", "residual", "highest (breaker)", "whose"]
    return {
        budget: (
            head,
            [
                [row.noise, rank_text(row), *_protection(row), record_names[row.record]]
                for row in board.noises
                if row.budget == budget and not row.is_reference
            ],
        )
        for budget in classes
    }


def own_remarks(board: Board, noises: Collection[str]) -> list[str]:
    """Return a line with the remarks on each of these noises of the user's own board, if it has any."""
    rows = [row for row in board.noises if row.noise in noises and not row.is_reference]
    return [f"{row.noise}: {', '.join(remarks)}" for row in rows if (remarks := noise_remarks(row))]


def _protection(row: NoiseRow) -> list[str]:
    """Return the residual protection of a noise, and its highest accuracy with the breaker, as texts."""
    highest = row.accuracies.get(row.worst_breaker or "")
    if row.is_reference:
        return [UNKNOWN, UNKNOWN]
    return [residual_text(row), f"{percent_mean(highest)} ({row.worst_breaker})" if highest else UNKNOWN]


def breaker_matrix(board: Board) -> Table:
    """Return the accuracies of every noise under every breaker; breakers that no rank needs are in parentheses."""
    required, breakers = breaker_names(board, required=True), breaker_names(board, required=False)
    head = ["rank", "noise", *(name if name in required else f"({name})" for name in breakers)]
    rows = [
        [_plain_rank(row), row.noise, *(percent_mean(row.accuracies.get(name)) for name in breakers)]
        for row in board.noises
    ]
    return head, rows


def target_table(board: Board) -> Table:
    """Return the highest accuracy under a required breaker for every noise and target.

    Targets that no rank needs are in parentheses.
    """
    head = ["rank", "noise", *(name if required else f"({name})" for name, required in board.targets.items())]
    rows = [
        [_plain_rank(row), row.noise, *(percent_mean(row.targets.get(name)) for name in board.targets)]
        for row in board.noises
    ]
    return head, rows


def breaker_table(board: Board) -> Table:
    """Return the table of breakers."""
    columns = [column for column in BREAKER_COLUMNS if column.header]
    return [column.header for column in columns], [[column.text(row) for column in columns] for row in board.breakers]


def next_breaker_table(dependence: BreakerDependence) -> Table:
    """Return the residual and rank of every noise without the breaker that recovers most, and after one more."""
    head = ["noise", "budget", "residual, best known", "rank by it", "without", "residual then", "rank then"]
    rows = [
        [
            noise.row.noise,
            noise.row.budget,
            percent(noise.residual),
            str(noise.rank),
            noise.without.breaker,
            percent(noise.without.residual),
            str(noise.without.rank),
            range_text(noise.rank_low, noise.rank_high),
            UNKNOWN if dependence.drop is None else percent(noise.residual - dependence.drop),
        ]
        for noise in dependence.noises
    ]
    return [*head, "rank without any one", "after the next breaker at least"], rows


def next_breaker_sentence(dependence: BreakerDependence) -> str:
    """Return how far the next breaker lowers a residual, and how often that bound held on the board."""
    count = dependence.breakers
    if dependence.drop is None:
        return f"{count} breakers were run against every noise, too few for a bound on what the next one does."
    bound = f"lowers the residual of a noise by at most {percent(dependence.drop)} points"
    probability = f"{100 * PREDICTION_COVERAGE:.0f} % probability"
    text = f"By the {count} breakers that were run against every noise, the next one {bound}, with {probability}."
    if dependence.held is None:
        return f"{text} They are too few to test the bound on them."
    return (
        f"{text} When each of them in turn was the new one, the bound from the others held in "
        f"{percent(dependence.held)} % of all cases."
    )


def recipe_table(boards: Sequence[Board]) -> Table:
    """Return how alike recipes order noises; no rows unless two boards differ only in their recipe."""
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
    """Return the rank without the parentheses of a provisional one."""
    return UNKNOWN if row.rank is None else str(row.rank)
