"""Tables and lines on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table


def make_console() -> Console:
    """Return the console for standard output, without emoji; a log is wide enough for tables."""
    console = Console(emoji=False)
    return console if console.is_terminal else Console(width=160, emoji=False)


def print_line(line: str) -> None:
    """Print a line on standard output as it is."""
    make_console().print(line, markup=False, highlight=False, soft_wrap=True)


def print_table(
    console: Console, title: str, head: Sequence[str], rows: Sequence[Sequence[str]], numbers: bool = False
) -> None:
    """Print a table; cells wrap on a narrow terminal. With `numbers`, all but the outer columns are aligned right."""
    table = Table(title=escape(title), title_justify="left", title_style="bold", header_style="bold")
    for index, name in enumerate(head):
        right = numbers and 2 <= index < len(head) - 1
        table.add_column(escape(name), justify="right" if right else "left", overflow="fold", no_wrap=index == 0)
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)
