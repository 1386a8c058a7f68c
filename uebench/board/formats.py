"""Writes tables of plain text as markdown, CSV and LaTeX; text never acts as markup or as a formula."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Characters that start a formula in a spreadsheet."""
NUMBER = re.compile(r"[-–(]*[0-9]|–$")
"""The start of a cell with a number, or the cell of an unknown one."""


def escape_markdown(text: str) -> str:
    """Return markdown that shows a text unchanged on one line and in one cell, without markup or HTML."""
    escaped = re.sub(
        r"[\\`*<>\[\]|~&!$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|://|(?<=www)\.", lambda match: f"\\{match[0]}", text
    )
    return " ".join(escaped.split())


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of plain texts in markdown."""
    return markdown_grid([[escape_markdown(cell) for cell in row] for row in (head, *rows)])


def markdown_grid(rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose cells already are markdown, head first; columns of numbers are aligned right."""
    columns = zip(*rows[1:], strict=True) if len(rows) > 1 else [()] * len(rows[0])
    numbers = [index > 1 and all(NUMBER.match(cell) for cell in column) for index, column in enumerate(columns)]
    alignments = ["---:" if numeric else "---" for numeric in numbers]
    return "".join(f"| {' | '.join(cell or ' ' for cell in row)} |\n" for row in (rows[0], alignments, *rows[1:]))


def csv_table(table: pd.DataFrame, digits: int) -> str:
    """Return a table as CSV; a quote before text keeps a spreadsheet from reading it as a formula."""

    def quote_formulas(column: pd.Series[Any]) -> pd.Series[Any]:
        if pd.api.types.is_numeric_dtype(column):
            return column
        cells = [f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell for cell in column]
        return pd.Series(cells, column.index, dtype=object)

    return str(table.apply(quote_formulas).to_csv(index=False, float_format=f"%.{digits}f"))


def latex_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in LaTeX for booktabs; cells are escaped and on one line, as a blank line ends a paragraph."""
    columns, *cells = [[" ".join(cell.split()) for cell in row] for row in (head, *rows)]
    return str(pd.DataFrame(cells, columns=columns).to_latex(index=False, escape=True))
