"""rank, plot and compare: reads a board from its folder, and prints or draws it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from uebench.board.columns import board_document
from uebench.board.formats import csv_table, latex_table, markdown_table
from uebench.board.groups import limit_threat
from uebench.board.publish import insert_tables, rebuild_board, rebuild_own_board
from uebench.board.published import (
    comparison_tables,
    doubted_cells,
    join_published,
    judge_claims,
    measured_cells,
    read_published,
)
from uebench.board.ranking import Board, rank_results
from uebench.board.records import RecordChoice, SuiteRecords, read_records
from uebench.board.tables import noise_table
from uebench.cli.console import make_console, print_json, print_split_table, print_table
from uebench.components.errors import UserError
from uebench.components.interfaces import THREATS, Threat
from uebench.planning.suite import Suite
from uebench.planning.suite_file import read_suite
from uebench.storage.atomic_files import write_atomically
from uebench.storage.results_file import RESULTS_FILE


@dataclass(frozen=True)
class BoardChoice:
    """Which results of a suite a command shows, the store with the user's own, and the folder of published boards.

    Without a `record` these are the published ones, or the user's own where nothing is published. Boards that are
    `bundled` with the package are not written.
    """

    record: RecordChoice | None
    store: Path
    boards: Path
    bundled: bool = False


def rank_board(suite: str, choice: BoardChoice, into: Path | None, as_json: bool) -> None:
    """Rebuild the files of a board, and its table in a document; prints it as tables, or as JSON."""
    chosen, records, record = _read_records(suite, choice)
    if record == "published" and choice.bundled:
        ranked = rank_results(chosen, records.published.values(), records.rulings)
    elif record == "published":
        ranked = rebuild_board(records.published_folder, chosen, records.published)
    else:
        ranked = rebuild_own_board(chosen, records, record)
    if into:
        insert_tables(into, chosen, ranked)
    _print_boards(chosen.name, ranked, as_json)


def rank_threat(suite: str, choice: BoardChoice, threat: Threat, as_json: bool) -> None:
    """Print a board of the breakers of a threat class or a weaker one, as tables or as JSON; writes no file."""
    chosen, records, record = _read_records(suite, choice)
    limited, results = limit_threat(chosen, records.choose(record).values(), threat)
    ranked = rank_results(limited, results, records.rulings)
    others = "" if threat == THREATS[0] else " or weaker"
    titled = [replace(board, title=f"{board.title}, breakers of class {threat}{others}") for board in ranked]
    _print_boards(chosen.name, titled, as_json)


def _print_boards(suite: str, boards: Sequence[Board], as_json: bool) -> None:
    """Print ranked boards as tables, or as JSON."""
    if as_json:
        print_json({"suite": suite, "boards": [board_document(board) for board in boards]})
        return
    for board in boards:
        print_table(make_console(), board.title, *noise_table(board, brief=True), numbers=True)


def plot_board(suite: str, choice: BoardChoice, into: Path | None) -> None:
    """Draw the figures that a board's record has data for, and name the missing ones."""
    from uebench.board.curves import make_curves
    from uebench.board.plots import figure_svg, noise_styles  # no other command waits for matplotlib

    _, records, record = _read_records(suite, choice)
    folder = records.published_folder if record == "published" else records.own_folder
    folder = Path() if record == "published" and choice.bundled else folder
    all_curves, missing = make_curves(list(records.choose(record).values()))
    styles, plot_folder = noise_styles(all_curves), into or folder / "plots"
    for curves in all_curves:
        path = plot_folder / f"{curves.name}.svg"
        write_atomically(path, figure_svg(curves, styles))
        click.echo(f"{path}: {curves.title}; {curves.setting}")
    for line in missing:
        click.echo(f"not drawn: {line}")


def compare_board(suite: str, choice: BoardChoice, form: str) -> None:
    """Print a board's numbers beside the published ones, and the verdicts on the paper's claims."""
    chosen = read_suite(suite)
    published = read_published(chosen)
    records = read_records(chosen.name, choice.store, choice.boards)
    record = choice.record or records.default
    measured = measured_cells(chosen, records.choose(record).values())
    cells = measured if published is None else join_published(published, measured)
    if form == "csv":
        click.echo(csv_table(cells, 2), nl=False)
        return
    verdicts = judge_claims(chosen, published, measured)
    claims = (list(verdicts[0]) if verdicts else ["claim"], [list(verdict.values()) for verdict in verdicts])
    tables, doubts = comparison_tables(cells), doubted_cells(cells)
    if form == "json":
        print_json({"suite": chosen.name, "cells": cells.to_dict("records"), "claims": verdicts})
    elif form == "table":
        console = make_console()
        for title, table in tables.items():
            print_split_table(console, f"{title}: published / ours, in percent", *table)
        for line in doubts:
            console.print(line, markup=False, highlight=False)
        print_table(console, "claims", *claims)
    else:
        write, sign = (markdown_table, "") if form == "markdown" else (latex_table, "% ")
        for title, table in tables.items():
            click.echo(f"{sign}{title}: published / ours, in percent\n")
            click.echo(write(*table))
        click.echo("".join(f"{sign}{line}\n" for line in doubts))
        if verdicts:
            click.echo(write(*claims), nl=False)


def _read_records(suite: str, choice: BoardChoice) -> tuple[Suite, SuiteRecords, RecordChoice]:
    """Return a suite, its records, and which is shown; raises `UserError` where that one holds no results."""
    chosen = read_suite(suite)
    records = read_records(chosen.name, choice.store, choice.boards)
    record = choice.record or records.default
    if not records.choose(record):
        folder = records.published_folder if record == "published" else records.own_folder
        raise UserError(f"{folder / RESULTS_FILE} holds no results; run `uebench run {suite}` first")
    return chosen, records, record
