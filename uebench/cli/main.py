"""The command line: every command, and those that do work; loads torch only where a command needs it."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from pathlib import Path
from typing import Any

import click

from uebench.cli.boards import BOARD_COMMANDS
from uebench.cli.lazy_imports import import_lazily
from uebench.cli.options import (
    PATH,
    boards_option,
    crew_options,
    machine_options,
    parse_shares,
    plugin_option,
    seed_option,
)
from uebench.cli.plugins import PLUGIN_COMMANDS
from uebench.cli.submissions import SUBMISSION_COMMANDS
from uebench.components.errors import UserError


class CommandGroup(click.Group):
    """A group of commands in which a user's mistake is one line and exit status 2 (1 where nothing can be written)."""

    def invoke(self, context: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(context)
        except click.UsageError as error:
            click.echo(f"Error: {error.format_message()}", err=True)
            sys.exit(2)
        except UserError as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(error.status)


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="uebench")
def main() -> None:
    """Pit noises that make images unlearnable against breakers that learn from them all the same."""


for command in (*PLUGIN_COMMANDS, *BOARD_COMMANDS, *SUBMISSION_COMMANDS):
    main.add_command(command)


@main.command()
@click.argument("suite", default="demo")
@click.option("--noise", "noises", multiple=True, metavar="SPEC", help="A noise in place of the suite's; repeatable.")
@click.option("--breaker", "breakers", multiple=True, metavar="SPEC", help="A breaker, or a chain a+b; repeatable.")
@click.option("--target", "targets", multiple=True, metavar="SPEC", help="A target network; repeatable.")
@click.option("--dataset", "datasets", multiple=True, metavar="SPEC", help="A data set; repeatable.")
@click.option(
    "--protect", "protected", multiple=True, callback=parse_shares, metavar="P,P", help="Shares of protected images."
)
@click.option(
    "--kind", type=click.Choice(["mixed", "clean-only"]), help="The others are there, or the protected are left out."
)
@click.option("--recipe", metavar="SPEC", help="How targets are trained: paper or fast, as fast:steps=8000.")
@seed_option
@crew_options
@machine_options
@click.option("--dry-run", "dry", is_flag=True, help="Show the cells and what is left to do, and stop.")
@boards_option
@plugin_option
def run_command(
    suite: str,
    workers: int | None,
    executor: Any,
    ray_address: str | None,
    patience: float | None,
    threads: int,
    device: str | None,
    store: Path,
    keep_every: float,
    dry: bool,
    boards: Path,
    **lists: Any,
) -> None:
    """Run SUITE (a name, or the path of a TOML file), or the part of it that the options name, and rank the results.

    A SPEC is name or name:key=value,key=value; a fraction such as 8/255 is exact. The clean set under every breaker
    and every noise without breaker are run along, and where the suite says so the breakers that ranks need.
    Work that is finished is not done again.

    \b
    uebench run --noise rem --breaker adv-linf
    uebench run demo --noise sem:radius=24/255 --seed 0,1,2
    """
    from uebench.cli.run import run_suite
    from uebench.executors.settings import ExecutionSettings

    machine = ExecutionSettings(store, device, workers, threads, keep_every, patience, executor, ray_address)
    sys.exit(run_suite(suite, lists, machine, boards, dry))


@main.command()
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
@machine_options
@plugin_option
def export_command(
    out: Path,
    suite: str | None,
    array: Any,
    threads: int,
    device: str | None,
    store: Path,
    keep_every: float,
    **lists: Any,
) -> None:
    """Protect a data set and write it into OUT: pictures in one folder per class, an array, and a manifest.

    Photos keep their names and sizes. What cannot be read is left out and named, and the exit status is then 1.

    \b
    uebench export protected --noise em --dataset folder:path=photos,size=64
    """
    from uebench.cli.run import export_set
    from uebench.executors.settings import ExecutionSettings

    sys.exit(export_set(suite, lists, ExecutionSettings(store, device, 1, threads, keep_every), out, array))


@main.command()
@click.argument("suites", nargs=-1)
@click.option("--dataset", "datasets", multiple=True, metavar="SPEC", help="A data set; repeatable.")
@click.option("--target", "targets", multiple=True, metavar="SPEC", help="A target network; repeatable.")
@click.option("--recipe", metavar="SPEC", help="How targets are trained: paper or fast, as fast:steps=8000.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes per device, for the forecast.")
@machine_options
@click.option("--seconds", type=click.FloatRange(min=0), default=2.0, show_default=True, help="Time for a measurement.")
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

    Tells images and operations a second, the share of what the device's own matrix product reaches, and the time that
    each suite takes at these rates. `--dry-run` uses them from then on.
    """
    from uebench.cli.run import bench_suites
    from uebench.executors.settings import ExecutionSettings

    machine = ExecutionSettings(store, device, workers, threads, keep_every)
    bench_suites(suites or ("demo",), lists, machine, seconds, into)


def script() -> None:
    """Run the command as a process, which loads torch and looks for garbage only once it computes, and ends at once.

    Torch takes seconds to load, half a second more where it is looked through for garbage, and another where it is
    freed object by object.
    """
    import_lazily("torch", "safetensors.torch")
    gc.disable()  # see `settle`
    try:
        main()
    except SystemExit as end:
        if not isinstance(end.code, int):
            raise
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code)


if __name__ == "__main__":
    script()
