"""The commands that show what a board's record says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from uebench.cli.completion import complete_suites
from uebench.cli.options import (
    PATH,
    boards_option,
    json_option,
    plugin_option,
    read_boards_option,
    record_option,
    store_option,
)
from uebench.components.errors import UserError
from uebench.components.interfaces import THREATS, Threat

if TYPE_CHECKING:
    from uebench.board.records import RecordChoice


@click.command(short_help="Rebuild a board from its record.")
@click.argument("suite", default="demo", shell_complete=complete_suites)
@click.option("--into", type=PATH, help="Also replace this suite's table in a document.")
@click.option(
    "--threat",
    type=click.Choice(THREATS),
    help="Only print the board that breakers of this threat class or a weaker one give.",
)
@json_option
@record_option
@store_option
@read_boards_option
@plugin_option
def rank_command(
    suite: str,
    into: Path | None,
    threat: Threat | None,
    as_json: bool,
    record: RecordChoice | None,
    store: Path,
    boards: Path,
) -> None:
    """Rebuild the files of SUITE's board from its results.jsonl alone.

    The board of your own results is in the store, in boards/SUITE. Those of the package are printed only.
    """
    from uebench.cli.board_views import BoardChoice, rank_board, rank_threat

    choice = BoardChoice(record, store, boards, _are_bundled(boards))
    if threat and into:
        raise UserError("--threat only prints a board; it cannot go --into a document")
    if threat:
        rank_threat(suite, choice, threat, as_json)
    else:
        rank_board(suite, choice, into, as_json)


@click.command(short_help="Draw the figures of a board.")
@click.argument("suite", default="demo", shell_complete=complete_suites)
@click.option("--into", type=PATH, help="Folder for the figures; default plots/ in the board's folder.")
@record_option
@store_option
@read_boards_option
def plot_command(suite: str, into: Path | None, record: RecordChoice | None, store: Path, boards: Path) -> None:
    """Draw SUITE's results.jsonl as SVG: accuracy against a breaker's parameter, training steps, protected share."""
    from uebench.cli.board_views import BoardChoice, plot_board

    plot_board(suite, BoardChoice(record, store, boards, _are_bundled(boards)), into)


@click.command(short_help="Build the static web site of the boards.")
@click.argument("suites", nargs=-1, shell_complete=complete_suites)
@click.option("--into", type=PATH, help="Folder for the pages; default site/ in the folder of boards.")
@click.option("--repository", metavar="URL", help="Link the source code; default the address in the package, if any.")
@record_option
@store_option
@read_boards_option
def site_command(
    suites: Sequence[str],
    into: Path | None,
    repository: str | None,
    record: RecordChoice | None,
    store: Path,
    boards: Path,
) -> None:
    """Build a static site of SUITES (names or paths of TOML files), by default of every board.

    It has the tables, figures and a page for each noise, and opens from disk, without a server or a network.
    """
    from uebench.site.build import project_repository, write_site

    repository = project_repository() if repository is None else repository
    into = into or (Path() if _are_bundled(boards) else boards) / "site"
    click.echo(f"Site: {write_site(boards, into, suites, store, record, repository)}")


@click.command(short_help="Put our numbers beside the published ones.")
@click.argument("suite", shell_complete=complete_suites)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "markdown", "latex", "json"]),
    default="table",
    show_default=True,
    help="How to print it.",
)
@record_option
@store_option
@read_boards_option
def compare_command(suite: str, form: str, record: RecordChoice | None, store: Path, boards: Path) -> None:
    """Put SUITE's results beside the published numbers, and say which of the paper's claims they bear out."""
    from uebench.cli.board_views import BoardChoice, compare_board

    compare_board(suite, BoardChoice(record, store, boards, _are_bundled(boards)), form)


@click.command(short_help="Add your own results to a published board.")
@click.argument("suite", shell_complete=complete_suites)
@click.option("--noise", "noises", multiple=True, metavar="NAME", help="Only this noise, as your board calls it.")
@click.option("--replace", is_flag=True, help="Replace published results that have other numbers.")
@json_option
@store_option
@boards_option
def publish_command(suite: str, noises: Sequence[str], replace: bool, as_json: bool, store: Path, boards: Path) -> None:
    """Add your own results of SUITE to its published record, and rebuild the board; for maintainers of a board.

    Your own results are those that `uebench run SUITE` measured into the store. A published result with other numbers
    is kept and named.
    """
    from uebench.board.columns import board_document
    from uebench.cli.console import print_json
    from uebench.storage.store import Store
    from uebench.workflows.publish import publish_results

    report = publish_results(suite, Store(store), boards, noises, replace=replace)
    if as_json:
        print_json({**vars(report), "boards": [board_document(board) for board in report.boards]})
        return
    for line in report.conflicts:
        click.echo(f"note: other numbers were published: {line}{'; replaced' if replace else ''}", err=True)
    click.echo(f"{report.added} results added. Board: {report.folder / 'README.md'}")


def _are_bundled(boards: Path) -> bool:
    """Return whether nobody named a folder of boards and there is none here: those of the package stay as they are."""
    given = click.get_current_context().get_parameter_source("boards") is not ParameterSource.DEFAULT
    return not given and boards != Path("leaderboards")


BOARD_COMMANDS = (publish_command, rank_command, plot_command, site_command, compare_command)
