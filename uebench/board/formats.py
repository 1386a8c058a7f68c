"""Writes tables of plain text as markdown, CSV and LaTeX, in which no text becomes markup or a formula."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Signs with which a formula of a spreadsheet begins."""
NUMBER = re.compile(r"[-–(]*[0-9]|–$")
"""How the cell of a number begins, or of an unknown one."""


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
    """Return a table of texts that are markdown already, its head first; columns of numbers are aligned right."""
    columns = zip(*rows[1:], strict=True) if len(rows) > 1 else [()] * len(rows[0])
    numbers = [index > 1 and all(NUMBER.match(cell) for cell in column) for index, column in enumerate(columns)]
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
    """Return a table in LaTeX, for booktabs; each text is escaped and on one line, as a blank line ends a paragraph."""
    first, *others = [[" ".join(cell.split()) for cell in row] for row in (head, *rows)]
    return str(pd.DataFrame(others, columns=first).to_latex(index=False, escape=True))
