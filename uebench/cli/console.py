"""Tables, lines and JSON on the terminal."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

LONGEST_WORD = 40
"""Characters; a longer word, such as a path, may be broken."""


def make_console(errors: bool = False) -> Console:
    """Return the console for standard output or standard error, without emoji; a log is wide enough for tables."""
    console = Console(emoji=False, stderr=errors)
    return console if console.is_terminal else Console(width=160, emoji=False, stderr=errors)


def print_line(line: str) -> None:
    """Print a line on standard output as it is."""
    make_console().print(line, markup=False, highlight=False, soft_wrap=True)


def print_table(
    console: Console, title: str, head: Sequence[str], rows: Sequence[Sequence[str]], numbers: bool = False
) -> None:
    """Print a table; cells wrap between words. With `numbers`, all but the outer columns are aligned right."""
    table = Table(title=escape(title), title_justify="left", title_style="bold", header_style="bold")
    for index, name in enumerate(head):
        align_right = numbers and 2 <= index < len(head) - 1
        words = [word for text in (name, *(row[index] for row in rows)) for word in text.split()]
        longest = min(max(map(len, words), default=1), LONGEST_WORD)
        table.add_column(escape(name), justify="right" if align_right else "left", overflow="fold", min_width=longest)
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)


def print_split_table(console: Console, title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table whose words are never cut: columns that do not fit follow in further tables, beside the first."""
    widths = [max(map(len, column)) + 3 for column in zip(head, *rows, strict=True)]
    groups, width_left = list[list[int]](), 0
    for index in range(1, len(head)):
        if not groups or width_left < widths[index]:
            groups.append([0])
            width_left = console.width - widths[0] - 1
        groups[-1].append(index)
        width_left -= widths[index]
    console.print(title, style="bold", markup=False, highlight=False)
    for group in groups:
        table = Table(header_style="bold")
        for index in group:
            table.add_column(escape(head[index]), no_wrap=True, overflow="ignore")
        for row in rows:
            table.add_row(*(escape(row[index]) for index in group))
        console.print(table)


def print_json(document: Any) -> None:
    """Print a document on standard output.

    It may hold dataclasses, mappings, paths and iterables. Numbers that are not finite become null.
    """
    click.echo(json.dumps(to_json(document), indent=1, ensure_ascii=False, allow_nan=False))


def to_json(value: Any) -> Any:
    """Return a value as lists, dictionaries, strings and numbers."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): to_json(part) for name, part in value.items()}
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [to_json(part) for part in value]
    return value
