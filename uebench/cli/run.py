"""run, export and bench: the commands that compute, and what they print of the reports."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uebench.cli.completion import complete_components, complete_suites
from uebench.cli.options import (
    PATH,
    execution_options,
    json_option,
    parse_shares,
    plugin_option,
    pool_options,
    read_boards_option,
    seed_option,
    store_option,
    verbosity_options,
)
from uebench.cli.run_report import (
    print_added_breakers,
    print_broken,
    print_failures,
    print_missing,
    print_problems,
    print_run,
    run_document,
)

if TYPE_CHECKING:
    from uebench.executors.messages import RunOutline
    from uebench.executors.settings import ExecutionSettings
    from uebench.workflows.run import PreparedRun

noise_option = click.option(
    "--noise",
    "noises",
    multiple=True,
    metavar="SPEC",
    shell_complete=complete_components("noise"),
    help="A noise in place of the suite's; repeatable.",
)
dataset_option = click.option(
    "--dataset",
    "datasets",
    multiple=True,
    metavar="SPEC",
    shell_complete=complete_components("dataset"),
    help="A data set; repeatable.",
)
target_option = click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="SPEC",
    shell_complete=complete_components("target"),
    help="A target network; repeatable.",
)
recipe_option = click.option(
    "--recipe", metavar="SPEC", help="How targets are trained: paper or fast, as fast:steps=8000."
)


@click.command(short_help="Run a suite, or a part of it, and rank the results.")
@click.argument("suite", default="demo", shell_complete=complete_suites)
@noise_option
@click.option(
    "--breaker",
    "breakers",
    multiple=True,
    metavar="SPEC",
    shell_complete=complete_components("breaker"),
    help="A breaker, or a chain a+b; repeatable.",
)
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
@verbosity_options
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
    quiet: bool,
    verbose: bool,
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
        print_added_breakers(prepared.added_breakers, errors=as_json)
    if dry:
        sys.exit(_print_plan(prepared, settings, as_json))
    print_broken(prepared)
    listener = partial(open_listener, errors=as_json, quiet=quiet, verbose=verbose)
    report = run_suite(prepared, settings, listener)
    if as_json:
        from uebench.cli.console import print_json

        print_json(run_document(report))
    sys.exit(print_problems(report) if as_json else print_run(report, wide))


@click.command(short_help="Protect a data set and write it as pictures.")
@click.argument("out", type=PATH)
@click.option(
    "--noise",
    "noises",
    multiple=True,
    metavar="SPEC",
    shell_complete=complete_components("noise"),
    help="The noise.",
)
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
@verbosity_options
@plugin_option
def export_command(
    out: Path,
    threads: int,
    device: str | None,
    store: Path,
    keep_every: float,
    quiet: bool,
    verbose: bool,
    **request: Any,
) -> None:
    """Protect a data set and write it into OUT: pictures in one folder per class, an array, and a manifest.

    Photos keep their names and sizes. Files that cannot be read are left out and named, and the exit status is then 1.

    \b
    uebench export protected --noise em --dataset folder:path=photos,size=64
    """
    from uebench.cli.console import print_line
    from uebench.workflows.export import ExportRequest, export_protected

    settings = make_settings(store, device, 1, threads, keep_every)
    listener = partial(open_listener, quiet=quiet, verbose=verbose)
    report = export_protected(ExportRequest(**request), settings, out, listener)
    print_failures(report.failures)
    if report.images:
        print_line(f"{report.images} protected images and their manifest: {report.folder}")
        for line in report.skipped:
            click.echo(f"left out: {line}", err=True)
    else:
        print_missing(report.completed, report.done, report.jobs, "jobs")
    sys.exit(report.status)


@click.command(short_help="Load data sets into the store, for use without a network.")
@click.argument(
    "datasets", nargs=-1, required=True, metavar="DATASET...", shell_complete=complete_components("dataset")
)
@click.option("--suite", default="demo", show_default=True, help="The suite whose settings the data sets take.")
@store_option
@plugin_option
def fetch_command(datasets: tuple[str, ...], suite: str, store: Path) -> None:
    """Download DATASET, or read it, check it and keep it in the store; later runs on this store need no network.

    \b
    uebench fetch cifar10 cifar100
    """
    from uebench.cli.console import print_line
    from uebench.workflows.fetch import fetch_dataset

    for text in datasets:
        report = fetch_dataset(text, suite, store)
        print_line(
            f"{report.label}: {report.training_images} training and {report.test_images} test images of "
            f"{report.shape}, {report.classes} classes, in {store}"
        )


@click.command(short_help="Measure how fast this device trains and attacks.")
@click.argument("suites", nargs=-1, shell_complete=complete_suites)
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
    for line in report.missing:
        click.echo(f"note: {line}; its networks were still measured", err=True)
    if into:
        write_atomically(into, (json.dumps(report.facts(), indent=1, sort_keys=True) + "\n").encode())


def make_settings(*values: Any, **options: Any) -> ExecutionSettings:
    """Return execution settings whose notes go to standard error."""
    from uebench.executors.settings import ExecutionSettings

    return replace(ExecutionSettings(*values, **options), note=_print_note)


def open_listener(outline: RunOutline, *, errors: bool = False, **verbosity: bool) -> Any:
    """Open the display of a run, on standard output or with `errors` on standard error."""
    from uebench.cli.console import make_console
    from uebench.cli.progress import make_listener

    return make_listener(make_console(errors), outline, **verbosity)


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
    print_broken(prepared)
    return int(bool(prepared.broken))


COMPUTING_COMMANDS = (run_command, export_command, fetch_command, bench_command)
