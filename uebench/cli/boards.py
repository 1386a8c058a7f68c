"""The commands that show what a board's record says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from uebench.cli.options import PATH, boards_option, json_option, plugin_option


@click.command(short_help="Rebuild a board from its record.")
@click.argument("suite", default="demo")
@click.option("--into", type=PATH, help="Also replace this suite's table in a document.")
@json_option
@boards_option
@plugin_option
def rank_command(suite: str, into: Path | None, as_json: bool, boards: Path) -> None:
    """Rebuild the files of SUITE's board from its results.jsonl alone."""
    from uebench.cli.board_views import rank_board

    rank_board(suite, into, boards, as_json)


@click.command(short_help="Draw the figures of a board.")
@click.argument("suite", default="demo")
@click.option("--into", type=PATH, help="Folder for the figures; default plots/ in the board's folder.")
@boards_option
def plot_command(suite: str, into: Path | None, boards: Path) -> None:
    """Draw SUITE's results.jsonl as SVG: accuracy against a breaker's parameter, training steps, protected share."""
    from uebench.cli.board_views import plot_board

    plot_board(suite, boards, into)


@click.command(short_help="Build the static web site of the boards.")
@click.argument("suites", nargs=-1)
@click.option("--into", type=PATH, help="Folder for the pages; default site/ in the folder of boards.")
@boards_option
def site_command(suites: Sequence[str], into: Path | None, boards: Path) -> None:
    """Build a static site of SUITES (names or paths of TOML files), by default of every board.

    It has the tables, figures and a page for each noise, and opens from disk, without a server or a network.
    """
    from uebench.site.build import write_site

    click.echo(f"Site: {write_site(boards, into or boards / 'site', suites)}")


@click.command(short_help="Put our numbers beside the published ones.")
@click.argument("suite")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "markdown", "latex", "json"]),
    default="table",
    show_default=True,
    help="How to print it.",
)
@boards_option
def compare_command(suite: str, form: str, boards: Path) -> None:
    """Put SUITE's results beside the published numbers, and say which of the paper's claims they bear out."""
    from uebench.cli.board_views import compare_board

    compare_board(suite, form, boards)


BOARD_COMMANDS = (rank_command, plot_command, site_command, compare_command)
