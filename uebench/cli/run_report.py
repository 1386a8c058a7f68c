"""Prints the outcome of a run: the user's own numbers, their place among the published ones, and what failed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from uebench.board.agreement import Agreement
    from uebench.workflows.run import PreparedRun, RunReport


def print_run(report: RunReport, wide: bool) -> int:
    """Print the results of a run among the published ones, and what failed; returns the exit status."""
    from uebench.board.tables import breaker_table, noise_table
    from uebench.cli.console import make_console, print_table

    console = make_console()
    if wide:
        for board in report.boards:
            print_table(console, board.title, *noise_table(board, brief=True), numbers=True)
            print_table(console, "breakers", *breaker_table(board), numbers=True)
    else:
        _print_own_boards(console, report)
    for line in _agreement_lines(report.agreements):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if report.boards:
        console.print(f"Board: {report.prepared.records.own_folder / 'README.md'}", soft_wrap=True)
    return print_problems(report)


def _print_own_boards(console: Console, report: RunReport) -> None:
    """Print the user's own results, then the rank of each noise among the published ones."""
    from uebench.board.groups import group_title
    from uebench.board.tables import own_remarks, own_table, rank_tables
    from uebench.cli.console import print_split_table

    titles = {group_title(result) for result in report.results}
    breakers = list(dict.fromkeys(result.breaker for result in report.results))
    noises = {result.noise for result in report.results}
    for board in report.own_boards:
        if board.title not in titles:
            continue
        print_split_table(console, f"your results: {board.title}", *own_table(board, noises, breakers))
        for line in own_remarks(board, noises):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    for board in report.boards:
        if board.title in titles and report.prepared.records.published:
            for budget, table in rank_tables(board).items():
                print_split_table(console, f"among the published, {budget}: {board.title}", *table)


def _agreement_lines(agreements: Sequence[Agreement]) -> Iterator[str]:
    """Yield how many cells agree with the published record, and those that do not."""
    if not agreements:
        return
    differing = [agreement for agreement in agreements if not agreement.holds]
    yield f"{len(agreements) - len(differing)} of your {len(agreements)} cells agree with the published record."
    for agreement in differing:
        yield (
            f"differs: {agreement.cell}: {100 * agreement.found:.1f} % here, "
            f"{100 * agreement.claimed:.1f} % published, {agreement.deviations:.1f} standard deviations apart"
        )


def run_document(report: RunReport) -> dict[str, Any]:
    """Return the outcome of a run for JSON."""
    from uebench.board.columns import board_document

    return {
        "suite": report.prepared.suite.name,
        "status": report.status,
        "requested": report.prepared.requested,
        "results": [json.loads(result.line()) for result in report.results],
        "failures": report.failures,
        "agreements": report.agreements,
        "own_boards": [board_document(board) for board in report.own_boards],
        "boards": [board_document(board) for board in report.boards],
    }


def print_problems(report: RunReport) -> int:
    """Print what failed or is missing; returns the exit status."""
    print_broken(report.prepared)  # before all work, and again after it
    print_failures(report.failures)
    print_missing(report.completed, len(report.results), report.prepared.requested, "cells")
    return report.status


def print_added_breakers(breakers: Sequence[str], errors: bool) -> None:
    """Print the breakers that run because every rank needs them, on standard error if `errors`."""
    from uebench.cli.console import make_console

    line = f"Along with the breakers that every rank needs: {', '.join(breakers)}"
    make_console(errors).print(line, markup=False, highlight=False)


def print_broken(prepared: PreparedRun) -> None:
    """Print the data sets that cannot be used, and why."""
    for dataset in prepared.broken:
        if dataset.failure.trace:
            click.echo(dataset.failure.trace, err=True)
        click.echo(f"failed: {dataset}", err=True)


def print_failures(failures: Mapping[str, str]) -> None:
    """Print the jobs that failed, and why."""
    for name, reason in failures.items():
        click.echo(f"failed: {name}: {reason}", err=True)


def print_missing(completed: bool, done: int, count: int, unit: str) -> None:
    """Print how many cells or jobs are missing, and what to do."""
    if not completed:
        click.echo(f"Stopped with {done} of {count} {unit} done. The same command goes on from here.", err=True)
    elif done < count:
        click.echo(f"{count - done} of {count} {unit} are missing. The same command tries them again.", err=True)
