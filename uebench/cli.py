"""The command line: reads what the user wants, calls the engine, prints; loads torch only where a command needs it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uebench.api import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from uebench.plan import Plan
    from uebench.suite import Selection, Suite


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


def boards_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option that says where boards are."""
    return click.option(
        "--boards",
        type=click.Path(path_type=Path),
        default=Path("leaderboards"),
        show_default=True,
        help="Folder of boards.",
    )(command)


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
@click.option("--seed", "seeds", multiple=True, callback=seeds, metavar="N,N", help="Seeds in place of the suite's.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes per device; default 1 a GPU, on a CPU 1 a core.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="CPU threads of a process.")
@click.option("--device", help="Devices, as cuda:0,cuda:1 or cpu; default every GPU, else the CPU.")
@click.option(
    "--store", type=click.Path(path_type=Path), default=Path(".uebench"), show_default=True, help="Work folder."
)
@click.option(
    "--keep-every", type=click.FloatRange(min=0), default=60.0, show_default=True, help="Seconds between states kept."
)
@click.option("--dry-run", is_flag=True, help="Show the cells and what is left to do, and stop.")
@boards_option
def run(
    suite: str,
    noises: Sequence[str],
    breakers: Sequence[str],
    targets: Sequence[str],
    datasets: Sequence[str],
    seeds: list[int],
    workers: int | None,
    threads: int,
    device: str | None,
    store: Path,
    keep_every: float,
    dry_run: bool,
    boards: Path,
) -> None:
    """Run SUITE (a name, or the path of a TOML file), or the part of it that the options name, and rank the results.

    A SPEC is name or name:key=value,key=value; a fraction such as 8/255 is exact. The clean set under every breaker
    and every noise without breaker are run along. Work that is finished is not done again.

    \b
    uebench run --noise rem --breaker adv-linf
    uebench run demo --noise sem:radius=24/255 --seed 0,1,2
    """
    from uebench import display, executors, leaderboard, naming
    from uebench.store import Store
    from uebench.suite import read, select

    console = display.console()
    chosen = read(suite)
    selection = select(chosen, noises=noises, breakers=breakers, targets=targets, datasets=datasets, seeds=seeds)
    used = executors.devices(device)
    crew = workers or (1 if used != ["cpu"] else max(1, executors.cores() // threads))
    work = Store(store, lambda line: click.echo(f"note: {line}", err=True))
    plan = _plan(selection, work)
    if dry_run:
        _show_plan(console, selection, plan, work)
        return
    folder = boards / chosen.name
    leaderboard.read(folder / "results.jsonl")  # a broken record is reported before hours of work
    work.prepare()
    names = {job.key: naming.name(selection, job) for job in plan.jobs}
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    stopped = False
    with display.listener(console, names, len(plan.cells)) as watching:
        queue = executors.Queue(watching)
        try:
            executors.execute(plan, queue, store, devices=used, workers=crew, threads=threads, every=keep_every)
        except KeyboardInterrupt:
            stopped = True
    finished = [
        naming.labelled(selection, cell, queue.results[cell.key]) for cell in plan.cells if cell.key in queue.results
    ]
    _publish(console, folder, chosen, finished, work)
    for key, reason in queue.failures.items():
        click.echo(f"failed: {names[key]}: {reason}", err=True)
    missing = len(plan.cells) - len(finished)
    if stopped:
        click.echo(
            f"Stopped with {len(finished)} of {len(plan.cells)} cells done. The same command goes on from here.",
            err=True,
        )
        sys.exit(130)
    if missing:
        click.echo(f"{missing} of {len(plan.cells)} cells are missing. The same command tries them again.", err=True)
        sys.exit(1)


def _plan(selection: Selection, store: Any) -> Plan:
    from typing import cast

    from uebench.api import Breaker, Noise
    from uebench.data import fingerprint
    from uebench.plan import plan
    from uebench.registry import registry

    nothing, plain = cast(Noise, registry().build("noise", "none")), cast(Breaker, registry().build("breaker", "none"))
    return plan(selection, nothing, (plain,), [fingerprint(source, store) for source in selection.sources])


def _show_plan(console: Console, selection: Selection, plan: Plan, store: Any) -> None:
    from uebench import display, naming
    from uebench.work import finished

    jobs = plan.jobs
    left = [job for job in jobs if not finished(job, store)]
    rows = [[naming.name(selection, job), job.key, "to do" if job in left else "done"] for job in jobs]
    display.show(console, f"suite {selection.suite.name}", ["job", "key", "state"], rows)
    console.print(f"{len(plan.protects)} noises and {len(plan.cells)} cells; {len(left)} of {len(jobs)} jobs to do")


def _publish(console: Console, folder: Path, suite: Suite, fresh: Sequence[Any], store: Any) -> None:
    """Merge results into a board's record, rebuild its files and print its tables."""
    from uebench import display, leaderboard, pages
    from uebench.store import sweep

    path = folder / "results.jsonl"
    with store.lock(f"board-{suite.name}", wait=True):
        merged, conflicts = leaderboard.merge(leaderboard.read(path), fresh)
        if not merged:
            return
        for name in (path.name, *pages.FILES):
            sweep(folder / name)
        leaderboard.write(path, merged)
        boards = leaderboard.rank(suite, merged.values())
        pages.publish(folder, suite, boards)
        pages.index(folder.parent)
    for board in boards:
        display.show(console, board.title, *pages.table(board, brief=True), numbers=True)
        display.show(console, "breakers", *pages.breaker_table(board), numbers=True)
    for line in conflicts:
        click.echo(f"note: other numbers on record: {line}", err=True)
    console.print(f"Board: {folder / 'README.md'}", soft_wrap=True)


@main.command()
@click.argument("suite", default="demo")
@click.option("--into", type=click.Path(path_type=Path), help="Also replace this suite's table in a document.")
@boards_option
def rank(suite: str, into: Path | None, boards: Path) -> None:
    """Rebuild the files of SUITE's board from its results.jsonl alone."""
    from uebench import display, leaderboard, pages
    from uebench.suite import read

    chosen = read(suite)
    folder = boards / chosen.name
    results = leaderboard.read(folder / "results.jsonl")
    if not results:
        raise UserError(f"{folder / 'results.jsonl'} holds no results; run `uebench run {suite}` first")
    made = leaderboard.rank(chosen, results.values())
    pages.publish(folder, chosen, made)
    pages.index(boards)
    if into:
        pages.insert(into, chosen, made)
    for board in made:
        display.show(display.console(), board.title, *pages.table(board, brief=True), numbers=True)


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
