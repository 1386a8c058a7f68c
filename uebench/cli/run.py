"""run, export and bench: the commands that compute, and what they print of the reports."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uebench.cli.options import (
    PATH,
    execution_options,
    json_option,
    parse_shares,
    plugin_option,
    pool_options,
    read_boards_option,
    seed_option,
)

if TYPE_CHECKING:
    from rich.console import Console

    from uebench.board.agreement import Agreement
    from uebench.executors.settings import ExecutionSettings
    from uebench.workflows.run import PreparedRun, RunReport

noise_option = click.option(
    "--noise", "noises", multiple=True, metavar="SPEC", help="A noise in place of the suite's; repeatable."
)
dataset_option = click.option("--dataset", "datasets", multiple=True, metavar="SPEC", help="A data set; repeatable.")
target_option = click.option("--target", "targets", multiple=True, metavar="SPEC", help="A target network; repeatable.")
recipe_option = click.option(
    "--recipe", metavar="SPEC", help="How targets are trained: paper or fast, as fast:steps=8000."
)


@click.command(short_help="Run a suite, or a part of it, and rank the results.")
@click.argument("suite", default="demo")
@noise_option
@click.option("--breaker", "breakers", multiple=True, metavar="SPEC", help="A breaker, or a chain a+b; repeatable.")
@target_option
@dataset_option
@click.option(
    "--protect", "protected", multiple=True, callback=parse_shares, metavar="P,P", help="Shares of protected images."
)
@click.option(
    "--kind",
    type=click.Choice(["mixed", "clean-only"]),
    help="Train on the unprotected images too, or on them alone.",
)
@recipe_option
@seed_option
@pool_options
@execution_options
@click.option("--dry-run", "dry", is_flag=True, help="Show the cells and what is left to do, and stop.")
@click.option("--wide", is_flag=True, help="Print every column of the board, and its breakers.")
@json_option
@read_boards_option
@plugin_option
def run_command(
    workers: int | None,
    executor: Any,
    ray_address: str | None,
    patience: float | None,
    threads: int,
    device: str | None,
    store: Path,
    keep_every: float,
    dry: bool,
    wide: bool,
    as_json: bool,
    boards: Path,
    **request: Any,
) -> None:
    """Run SUITE (a name, or the path of a TOML file), or the part of it that the options name, and rank the results.

    A SPEC is name or name:key=value,key=value; a fraction such as 8/255 is exact. The clean set under every breaker
    and every noise without a breaker always run too, and where the suite says so the breakers that ranks need.
    Finished work is not done again.

    \b
    uebench run --noise rem --breaker adv-linf
    uebench run demo --noise sem:radius=24/255 --seed 0,1,2
    """
    from uebench.workflows.run import RunRequest, prepare_run, run_suite

    settings = make_settings(store, device, workers, threads, keep_every, patience, executor, ray_address)
    prepared = prepare_run(RunRequest(**request), settings, boards, load=not dry)
    if prepared.added_breakers:
        added = ", ".join(prepared.added_breakers)
        click.echo(f"Along with the breakers that every rank needs: {added}", err=as_json)
    if dry:
        sys.exit(_print_plan(prepared, settings, as_json))
    _print_broken(prepared)
    report = run_suite(prepared, settings, partial(open_listener, errors=as_json))
    if as_json:
        from uebench.cli.console import print_json

        print_json(_run_document(report))
    sys.exit(_print_problems(report) if as_json else _print_run(report, wide))


@click.command(short_help="Protect a data set and write it as pictures.")
@click.argument("out", type=PATH)
@click.option("--noise", "noises", multiple=True, metavar="SPEC", help="The noise.")
@click.option("--dataset", "datasets", multiple=True, metavar="SPEC", help="The data set, as folder:path=photos.")
@click.option("--suite", help="A suite whose settings the noise takes; default the noise's own, the papers'.")
@seed_option
@click.option(
    "--array",
    type=click.Choice(["safetensors", "npy", "none"]),
    default="safetensors",
    show_default=True,
    help="Format of the array beside the pictures.",
)
@execution_options
@plugin_option
def export_command(out: Path, threads: int, device: str | None, store: Path, keep_every: float, **request: Any) -> None:
    """Protect a data set and write it into OUT: pictures in one folder per class, an array, and a manifest.

    Photos keep their names and sizes. Files that cannot be read are left out and named, and the exit status is then 1.

    \b
    uebench export protected --noise em --dataset folder:path=photos,size=64
    """
    from uebench.cli.console import print_line
    from uebench.workflows.export import ExportRequest, export_protected

    settings = make_settings(store, device, 1, threads, keep_every)
    report = export_protected(ExportRequest(**request), settings, out, open_listener)
    _print_failures(report.failures)
    if report.images:
        print_line(f"{report.images} protected images and their manifest: {report.folder}")
        for line in report.skipped:
            click.echo(f"left out: {line}", err=True)
    else:
        _print_missing(report.completed, report.done, report.jobs, "jobs")
    sys.exit(report.status)


@click.command(short_help="Measure how fast this device trains and attacks.")
@click.argument("suites", nargs=-1)
@dataset_option
@target_option
@recipe_option
@click.option("--workers", type=click.IntRange(min=1), help="Processes per device, for the forecast.")
@execution_options
@click.option("--seconds", type=click.FloatRange(min=0), default=2.0, show_default=True, help="Time per measurement.")
@click.option("--into", type=PATH, help="Also write the measurements to this file, as JSON.")
def bench_command(
    suites: tuple[str, ...],
    workers: int | None,
    threads: int,
    device: str | None,
    store: Path,
    keep_every: float,
    seconds: float,
    into: Path | None,
    **lists: Any,
) -> None:
    """Measure the attack step and the training step of every network in SUITES (demo) on this device.

    Prints images and operations a second, their share of the device's own matrix product rate, and the time that
    each suite takes at these rates. `--dry-run` uses them from then on.
    """
    from uebench.cli.console import make_console, print_table
    from uebench.cli.dry_run import describe_total, speed_table
    from uebench.storage.atomic_files import write_atomically
    from uebench.workflows.bench import bench_suites

    settings = make_settings(store, device, workers, threads, keep_every)
    report = bench_suites(suites or ("demo",), settings, seconds, **lists)
    console = make_console()
    print_table(console, f"on {report.made_with['device']}", *speed_table(report.speeds), numbers=True)
    for name, plan in report.plans.items():
        keys = {job.key for job in plan.jobs}
        total = describe_total(plan, keys, settings.open_store(), settings.worker_devices())
        console.print(f"Suite {name}. {total}")
    if into:
        write_atomically(into, (json.dumps(report.facts(), indent=1, sort_keys=True) + "\n").encode())


def make_settings(*values: Any, **options: Any) -> ExecutionSettings:
    """Return execution settings whose notes go to standard error."""
    from uebench.executors.settings import ExecutionSettings

    return replace(ExecutionSettings(*values, **options), note=_print_note)


def open_listener(names: Mapping[str, str], cells: int, *, errors: bool = False) -> Any:
    """Open the display of a run, on standard output or with `errors` on standard error."""
    from uebench.cli.console import make_console
    from uebench.cli.progress import make_listener

    return make_listener(make_console(errors), names, cells)


def _print_note(line: str) -> None:
    click.echo(f"note: {line}", err=True)


def _print_plan(prepared: PreparedRun, settings: ExecutionSettings, as_json: bool) -> int:
    """Print the jobs of a run; returns the exit status."""
    import torch

    from uebench.cli.console import make_console, print_json
    from uebench.cli.dry_run import forecast_jobs, print_dry_run

    torch.set_num_threads(settings.threads)
    store, devices = settings.open_store(), settings.worker_devices()
    jobs = forecast_jobs(prepared.plan, prepared.names, store, devices[0])
    if as_json:
        print_json({"suite": prepared.suite.name, "workers": len(devices), "jobs": jobs})
    else:
        print_dry_run(make_console(), f"suite {prepared.suite.name}", prepared.plan, jobs, store, devices)
    _print_broken(prepared)
    return int(bool(prepared.broken))


def _print_run(report: RunReport, wide: bool) -> int:
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
    return _print_problems(report)


def _print_own_boards(console: Console, report: RunReport) -> None:
    """Print the user's own results, then the place of each noise among the published ones."""
    from uebench.board.groups import group_title
    from uebench.board.tables import own_remarks, own_table, place_tables
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
        if board.title in titles and any(row.record != "own" for row in board.noises):
            for budget, table in place_tables(board).items():
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


def _run_document(report: RunReport) -> dict[str, Any]:
    """Return the outcome of a run for JSON."""
    from uebench.cli.board_views import board_document

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


def _print_problems(report: RunReport) -> int:
    """Print what failed or is missing; returns the exit status."""
    _print_broken(report.prepared)  # before all work, and again after it
    _print_failures(report.failures)
    _print_missing(report.completed, len(report.results), report.prepared.requested, "cells")
    return report.status


def _print_broken(prepared: PreparedRun) -> None:
    for dataset in prepared.broken:
        if dataset.failure.trace:
            click.echo(dataset.failure.trace, err=True)
        click.echo(f"failed: {dataset}", err=True)


def _print_failures(failures: Mapping[str, str]) -> None:
    for name, reason in failures.items():
        click.echo(f"failed: {name}: {reason}", err=True)


def _print_missing(completed: bool, done: int, count: int, unit: str) -> None:
    if not completed:
        click.echo(f"Stopped with {done} of {count} {unit} done. The same command goes on from here.", err=True)
    elif done < count:
        click.echo(f"{count - done} of {count} {unit} are missing. The same command tries them again.", err=True)


COMPUTING_COMMANDS = (run_command, export_command, bench_command)
