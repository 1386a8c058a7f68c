"""The tables of a board, of noises and of breakers, in markdown, CSV and LaTeX, in which no text is markup."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

from uebench.board.rank_agreement import RESIDUAL, rank_agreements
from uebench.board.ranking import Board

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of one."""
NUMBER = re.compile(r"[-–(]*[0-9]|–$")
"""How a cell begins that is a number, or what stands for an unknown one."""
VISIBILITY = ["L-inf", "PSNR", "SSIM"]


def _percent(value: object, deviation: object = None) -> str:
    if value is None or pd.isna(value):  # type: ignore[call-overload]
        return "–"
    spread = "" if deviation is None or pd.isna(deviation) else f" ± {100 * deviation:.1f}"  # type: ignore[call-overload, operator]
    return f"{100 * value:.1f}{spread}"  # type: ignore[operator]


def _number(value: object, digits: int) -> str:
    return "–" if value is None or pd.isna(value) else f"{value:.{digits}f}"  # type: ignore[call-overload]


def escape_markdown(text: str) -> str:
    """Return markdown that shows a text as it is: no markup of markdown or HTML, no second cell, no second line."""
    escaped = re.sub(
        r"[\\`*<>\[\]|~&!$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|://|(?<=www)\.", lambda sign: f"\\{sign[0]}", text
    )
    return " ".join(escaped.split())


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of plain texts in markdown."""
    return markdown_grid([[escape_markdown(cell) for cell in row] for row in (head, *rows)])


def markdown_grid(rows: Sequence[Sequence[str]]) -> str:
    """Return a table of texts that are markdown already, its head first; columns of numbers stand to the right."""
    columns = zip(*rows[1:], strict=True) if len(rows) > 1 else [()] * len(rows[0])
    numbers = [place > 1 and all(NUMBER.match(cell) for cell in column) for place, column in enumerate(columns)]
    marks = ["---:" if numeric else "---" for numeric in numbers]
    return "".join(f"| {' | '.join(cell or ' ' for cell in row)} |\n" for row in (rows[0], marks, *rows[1:]))


def csv_table(table: pd.DataFrame, digits: int) -> str:
    """Return a table as CSV in which no text is a formula to a spreadsheet."""

    def guarded(column: pd.Series[Any]) -> pd.Series[Any]:
        if pd.api.types.is_numeric_dtype(column):
            return column
        cells = [f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell for cell in column]
        return pd.Series(cells, column.index, dtype=object)

    return str(table.apply(guarded).to_csv(index=False, float_format=f"%.{digits}f"))


def latex_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in LaTeX, for booktabs; each text is escaped and on one line, as a blank one ends a paragraph."""
    first, *others = [[" ".join(cell.split()) for cell in row] for row in (head, *rows)]
    return str(pd.DataFrame(others, columns=first).to_latex(index=False, escape=True))


def _interval(value: object, low: object, high: object) -> str:
    known = not (low is None or pd.isna(low))  # type: ignore[call-overload]
    return _percent(value) + (f" [{100 * low:.1f}, {100 * high:.1f}]" if known else "")  # type: ignore[operator]


def breaker_columns(board: Board, required: bool) -> list[str]:
    """Return the breakers that have a column, those required or all, the required ones first."""
    needed = set(board.breakers[board.breakers["required"]]["breaker"])
    found = [name.removeprefix("accuracy ") for name in map(str, board.noises) if name.startswith("accuracy ")]
    return sorted((name for name in found if name in needed or not required), key=lambda name: name not in needed)


def noise_table(board: Board, brief: bool = False) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the table of noises, as people read it; the brief one leaves out their visibility."""
    breakers = breaker_columns(board, required=True)
    head = [
        "rank",
        "noise",
        "band",
        "residual",
        "gap",
        *breakers,
        "highest",
        "seeds",
        *VISIBILITY,
        "noise s",
        "remarks",
    ]
    budgets = board.noises[board.noises["status"] != "reference"]["budget"].nunique()
    rows = []
    for row in board.noises.to_dict("records"):
        rank = {"ranked": row["rank"], "provisional": f"({row['rank']})"}.get(row["status"], "–")
        lacks = f"unranked, lacks {row['lacks']}" if row["status"] == "unranked" else ""
        ruling = f"withdrawn: {row['ruling']}" if row["status"] == "withdrawn" else row["ruling"]
        status = row["status"] if row["status"] in ("reference", "provisional") else ""
        remarks = [status, lacks, ruling, row["flags"]]
        reference = row["status"] == "reference"
        residual = [row[f"residual_{part}"] for part in ("protection", "low", "high")]
        highest = f"{_percent(row.get('highest_accuracy'))} ({row.get('highest_breaker')})"
        rows.append(
            [
                str(rank),
                row["noise"],
                "–" if reference or pd.isna(row["band"]) else str(row["band"]),
                "–" if reference else _interval(*residual),
                "–" if reference else _percent(row["same_breaker_gap"]),
                *(_percent(row.get(f"accuracy {name}"), row.get(f"deviation {name}")) for name in breakers),
                "–" if reference or lacks else highest,
                str(row["seeds"]),
                f"{row['noise_linf'] * 255:.0f}/255",
                _number(row["psnr"], 1),
                _number(row["ssim"], 3),
                _number(row["noise_seconds"], 0),
                ", ".join([*filter(None, remarks), *([row["budget"]] if budgets > 1 and not reference else [])]),
            ]
        )
    kept = [place for place, name in enumerate(head) if not (brief and name in VISIBILITY)]
    return [head[place] for place in kept], [[row[place] for place in kept] for row in rows]


def breaker_matrix(board: Board) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the accuracies of every noise under every breaker; those not required in parentheses."""
    needed, breakers = breaker_columns(board, required=True), breaker_columns(board, required=False)
    head = ["rank", "noise", *(name if name in needed else f"({name})" for name in breakers), "highest"]
    rows = [
        [
            "–" if pd.isna(row["rank"]) else str(row["rank"]),
            row["noise"],
            *(_percent(row.get(f"accuracy {name}"), row.get(f"deviation {name}")) for name in breakers),
            _percent(row.get("highest_accuracy")),
        ]
        for row in board.noises.to_dict("records")
    ]
    return head, rows


def target_table(board: Board) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of what every noise leaves on every target; those that no rank needs in parentheses."""
    head = ["rank", "noise", *(name if needed else f"({name})" for name, needed in board.targets.items())]
    rows = [
        [
            "–" if pd.isna(row["rank"]) else str(row["rank"]),
            row["noise"],
            *(_percent(row.get(f"target {name}"), row.get(f"target-deviation {name}")) for name in board.targets),
        ]
        for row in board.noises.to_dict("records")
    ]
    return head, rows


def breaker_table(board: Board) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the table of breakers."""
    head = ["rank", "breaker", "recovered", "lowest", "on clean images", "training s", "remarks"]
    rows = []
    for row in board.breakers.to_dict("records"):
        lacks = f"unranked, lacks {row['lacks']}" if row["lacks"] else ""
        took = f"chose {row['chosen']}" if row["chosen"] else ""
        rows.append(
            [
                "–" if pd.isna(row["rank"]) else f"{row['rank']:.0f}",
                row["breaker"],
                _interval(row["recovered"], row["recovered_low"], row["recovered_high"]),
                _percent(row["lowest"]),
                _percent(row["clean_accuracy"]),
                _number(row["train_seconds"], 0),
                ", ".join(filter(None, ["required" if row["required"] else "", took, lacks, row["flags"]])),
            ]
        )
    return head, rows


def recipe_table(boards: Sequence[Board]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of how alike recipes order noises; no rows where no boards differ in their recipe alone."""
    head = ["order by", "recipe", "and recipe", "on", "noises", "Kendall tau", "training s"]
    rows = [
        [
            agreement.order if agreement.order == RESIDUAL else f"accuracy under {agreement.order}",
            agreement.recipes[0],
            "itself, another seed" if agreement.recipes[0] == agreement.recipes[1] else agreement.recipes[1],
            agreement.setting,
            str(agreement.noises),
            _number(agreement.tau, 2),
            " / ".join(_number(seconds, 0) for seconds in agreement.seconds),
        ]
        for agreement in rank_agreements(boards)
    ]
    return head, rows
