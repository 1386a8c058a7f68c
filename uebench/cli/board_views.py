"""rank, plot and compare: reads a board from its folder, and prints or draws it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from uebench.board.columns import row_values
from uebench.board.formats import csv_table, latex_table, markdown_table
from uebench.board.publish import insert_tables, rebuild_board
from uebench.board.published import comparison_table, join_published, judge_claims, measured_cells, read_published
from uebench.board.ranking import Board
from uebench.board.tables import noise_table
from uebench.cli.console import make_console, print_json, print_table
from uebench.components.errors import UserError
from uebench.planning.suite import Suite
from uebench.planning.suite_file import read_suite
from uebench.storage.atomic_files import write_atomically
from uebench.storage.result import Result
from uebench.storage.results_file import read_results


def rank_board(suite: str, into: Path | None, boards: Path, as_json: bool = False) -> None:
    """Rebuild the files of a board, and its table in a document; prints it as tables, or as JSON."""
    chosen, folder, results = _read_record(suite, boards)
    ranked = rebuild_board(folder, chosen, {result.key: result for result in results})
    if into:
        insert_tables(into, chosen, ranked)
    if as_json:
        print_json({"suite": chosen.name, "boards": [board_document(board) for board in ranked]})
        return
    for board in ranked:
        print_table(make_console(), board.title, *noise_table(board, brief=True), numbers=True)


def board_document(board: Board) -> dict[str, Any]:
    """Return a board for JSON, its rows with the columns of its CSV files."""
    return {
        "title": board.title,
        "noises": [row_values(row) for row in board.noises],
        "breakers": [row_values(row) for row in board.breakers],
    }


def plot_board(suite: str, boards: Path, into: Path | None) -> None:
    """Draw the figures that a board's record has data for, and name the ones that it lacks."""
    from uebench.board.curves import make_curves
    from uebench.board.plots import figure_svg, noise_styles  # no other command waits for matplotlib

    _, folder, results = _read_record(suite, boards)
    drawn, lacking = make_curves(results)
    styles, target = noise_styles(drawn), into or folder / "plots"
    for curves in drawn:
        path = target / f"{curves.name}.svg"
        write_atomically(path, figure_svg(curves, styles))
        click.echo(f"{path}: {curves.title}; {curves.setting}")
    for line in lacking:
        click.echo(f"not drawn: {line}")


def compare_board(suite: str, form: str, boards: Path) -> None:
    """Print a board's numbers beside the published ones, and the verdicts on the paper's claims."""
    chosen = read_suite(suite)
    theirs = read_published(chosen)
    own = measured_cells(chosen, read_results(boards / chosen.name / "results.jsonl").values())
    cells = own if theirs is None else join_published(theirs, own)
    if form == "csv":
        click.echo(csv_table(cells, 2), nl=False)
        return
    head, rows = comparison_table(cells)
    verdicts = judge_claims(chosen, theirs, own)
    judged = [list(verdict.values()) for verdict in verdicts]
    if form == "json":
        print_json({"suite": chosen.name, "cells": cells.to_dict("records"), "claims": verdicts})
    elif form == "table":
        print_table(make_console(), f"{chosen.title}: published and ours, in percent", head, rows)
        print_table(make_console(), "claims", list(verdicts[0]) if verdicts else ["claim"], judged)
    else:
        write = markdown_table if form == "markdown" else latex_table
        click.echo(write(head, rows))
        if verdicts:
            click.echo(write(list(verdicts[0]), judged), nl=False)


def _read_record(suite: str, boards: Path) -> tuple[Suite, Path, list[Result]]:
    """Return a suite, the folder of its board and the results there; raises `UserError` where there are none."""
    chosen = read_suite(suite)
    folder = boards / chosen.name
    results = read_results(folder / "results.jsonl")
    if not results:
        raise UserError(f"{folder / 'results.jsonl'} holds no results; run `uebench run {suite}` first")
    return chosen, folder, list(results.values())
