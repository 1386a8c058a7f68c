"""A board as it lies in its folder: read, ranked again, drawn, and compared with what papers publish."""

from __future__ import annotations

from pathlib import Path

import click

from uebench import compare as comparing
from uebench import display, leaderboard, pages, tables
from uebench.errors import UserError
from uebench.files import write_whole
from uebench.result import Result
from uebench.suite import Suite, read


def rank(suite: str, into: Path | None, boards: Path) -> None:
    """Rebuild the files of a board, and its table in a document."""
    chosen, folder, results = _recorded(suite, boards)
    made = pages.rebuild(folder, chosen, {one.key: one for one in results})
    if into:
        pages.insert(into, chosen, made)
    for board in made:
        display.show(display.console(), board.title, *tables.noises(board, brief=True), numbers=True)


def plot(suite: str, boards: Path, into: Path | None) -> None:
    """Draw the figures that a board's record has the data for, and say which it has not."""
    from uebench import curves, plots  # no other command waits for matplotlib

    _, folder, results = _recorded(suite, boards)
    drawn, lacking = curves.of(results)
    looks, place = plots.styles(drawn), into or folder / "plots"
    for one in drawn:
        path = place / f"{one.name}.svg"
        write_whole(path, plots.svg(one, looks))
        click.echo(f"{path}: {one.title}; {one.setting}")
    for line in lacking:
        click.echo(f"not drawn: {line}")


def compare(suite: str, form: str, boards: Path) -> None:
    """Print a board's numbers beside the published ones, and what both say of the paper's claims."""
    chosen = read(suite)
    theirs = comparing.published(chosen)
    own = comparing.ours(chosen, leaderboard.read(boards / chosen.name / "results.jsonl").values())
    cells = own if theirs is None else comparing.beside(theirs, own)
    if form == "csv":
        click.echo(tables.csv(cells, 2), nl=False)
        return
    head, rows = comparing.table(cells)
    verdicts = comparing.verdicts(chosen, theirs, own)
    judged = [list(one.values()) for one in verdicts]
    if form == "table":
        display.show(display.console(), f"{chosen.title}: published and ours, in percent", head, rows)
        display.show(display.console(), "claims", list(verdicts[0]) if verdicts else ["claim"], judged)
    else:
        write = tables.markdown if form == "markdown" else tables.latex
        click.echo(write(head, rows))
        if verdicts:
            click.echo(write(list(verdicts[0]), judged), nl=False)


def _recorded(suite: str, boards: Path) -> tuple[Suite, Path, list[Result]]:
    """Return a suite, the folder of its board and the results there; raises `UserError` where there are none."""
    chosen = read(suite)
    folder = boards / chosen.name
    results = leaderboard.read(folder / "results.jsonl")
    if not results:
        raise UserError(f"{folder / 'results.jsonl'} holds no results; run `uebench run {suite}` first")
    return chosen, folder, list(results.values())
