"""The command line: reads what the user wants and calls the engine; loads torch only where a command needs it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from uebench.api import UserError


class Commands(click.Group):
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


def seeds(context: click.Context, option: click.Parameter, values: Sequence[str]) -> list[int]:
    """Read `0,1,2`, given once or more."""
    try:
        found = [int(part) for value in values for part in value.split(",")]
    except ValueError:
        raise click.BadParameter(f"expected whole numbers separated by commas, not {','.join(values)!r}") from None
    if any(seed < 0 or seed >= 2**32 for seed in found):
        raise click.BadParameter(f"a seed must lie in 0 .. 2^32 - 1, not {','.join(values)}")
    if len(set(found)) < len(found):
        raise click.BadParameter(f"a seed is given twice in {','.join(values)}")
    return found


def shares(context: click.Context, option: click.Parameter, values: Sequence[str]) -> list[float]:
    """Read `0.2,0.4`, given once or more."""
    from uebench.suite import share

    return [share(part) for value in values for part in value.split(",")]


def options(*decorators: Callable[..., Any]) -> Callable[..., Any]:
    """Bundle options that several commands share."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


place = click.Path(path_type=Path)
boards_option = click.option(
    "--boards", type=place, default=Path("leaderboards"), show_default=True, help="Folder of boards."
)
seed_option = click.option(
    "--seed", "seeds", multiple=True, callback=seeds, metavar="N,N", help="Seeds in place of the suite's."
)
machine_options = options(
    click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="CPU threads a process."),
    click.option("--device", help="Devices, as cuda:0,cuda:1 or cpu; default every GPU, else the CPU."),
    click.option("--store", type=place, default=Path(".uebench"), show_default=True, help="Work folder."),
    click.option(
        "--keep-every", type=click.FloatRange(min=0), default=60.0, show_default=True, help="Seconds between states."
    ),
)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="uebench")
def main() -> None:
    """Pit noises that make images unlearnable against breakers that learn from them all the same."""


@main.command()
@click.argument("suite", default="demo")
@click.option("--noise", "noises", multiple=True, metavar="SPEC", help="A noise in place of the suite's; repeatable.")
@click.option("--breaker", "breakers", multiple=True, metavar="SPEC", help="A breaker, or a chain a+b; repeatable.")
@click.option("--target", "targets", multiple=True, metavar="SPEC", help="A target network; repeatable.")
@click.option("--dataset", "datasets", multiple=True, metavar="SPEC", help="A data set; repeatable.")
@click.option(
    "--protect", "protected", multiple=True, callback=shares, metavar="P,P", help="Shares of protected images."
)
@click.option(
    "--kind", type=click.Choice(["mixed", "clean-only"]), help="The others are there, or the protected are left out."
)
@seed_option
@click.option("--workers", type=click.IntRange(min=1), help="Processes per device; default 1 a GPU, on a CPU 1 a core.")
@machine_options
@click.option("--dry-run", "dry", is_flag=True, help="Show the cells and what is left to do, and stop.")
@boards_option
def run(
    suite: str,
    workers: int | None,
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
    and every noise without breaker are run along. Work that is finished is not done again.

    \b
    uebench run --noise rem --breaker adv-linf
    uebench run demo --noise sem:radius=24/255 --seed 0,1,2
    """
    from uebench import commands

    sys.exit(commands.run(suite, lists, commands.Machine(store, device, workers, threads, keep_every), boards, dry))


@main.command()
@click.argument("out", type=place)
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
def export(
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
    from uebench import commands

    sys.exit(commands.export(suite, lists, commands.Machine(store, device, 1, threads, keep_every), out, array))


@main.command()
@click.argument("suite", default="demo")
@click.option("--into", type=place, help="Also replace this suite's table in a document.")
@boards_option
def rank(suite: str, into: Path | None, boards: Path) -> None:
    """Rebuild the files of SUITE's board from its results.jsonl alone."""
    from uebench import commands

    commands.rank(suite, into, boards)


@main.command()
@click.argument("suite")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "markdown", "latex"]),
    default="table",
    show_default=True,
    help="How to print it.",
)
@boards_option
def compare(suite: str, form: str, boards: Path) -> None:
    """Put SUITE's results beside the published numbers, and say which of the paper's claims they bear out."""
    from uebench import commands

    commands.compare(suite, form, boards)


@main.command()
@click.argument("name", required=False)
def plugins(name: str | None) -> None:
    """List every component and what was left out and why, or all about the components called NAME."""
    from uebench import catalogue, display

    console = display.console()
    if name:
        catalogue.describe(console, name)
    else:
        catalogue.overview(console)


@main.command()
@click.argument("name")
@click.option("--suite", default="demo", show_default=True, help="The suite whose defaults the check uses.")
def check(name: str, suite: str) -> None:
    """Check that the components called NAME (or NAME:key=value) keep the contract; exit status 1 where one does not."""
    from uebench import check as contract
    from uebench import display
    from uebench.suite import read

    broken = False
    for kind, component in contract.find(name, read(suite)):
        findings = contract.check(kind, component)
        contract.show(display.console(), kind, component, findings)
        broken = broken or not all(finding.kept for finding in findings)
    sys.exit(int(broken))


if __name__ == "__main__":
    main()
