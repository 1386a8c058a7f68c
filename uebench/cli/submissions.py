"""The commands by which entries are handed in, verified, accepted and withdrawn."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from uebench.cli.options import PATH, boards_option, judging_options, store_option


@click.command()
@click.argument("suite")
@click.option(
    "--noise", "noises", multiple=True, required=True, metavar="SPEC", help="The noise; repeatable with --breaker."
)
@click.option(
    "--breaker", "breakers", multiple=True, metavar="SPEC", help="Hand in this breaker, against listed noises."
)
@click.option("--dataset", "datasets", multiple=True, metavar="SPEC", help="The data set.")
@click.option("--into", type=PATH, required=True, metavar="FILE.zip", help="The bundle to write.")
@click.option("--with-noise", "images", is_flag=True, help="Also pack the released images.")
@click.option("--name", required=True, help="Who hands it in.")
@click.option("--contact", default="", help="Where the maintainers reach you.")
@click.option("--paper", default="", metavar="URL", help="Where the method is published.")
@store_option
@boards_option
def submit_command(
    suite: str, into: Path, images: bool, name: str, contact: str, paper: str, store: Path, boards: Path, **lists: Any
) -> None:
    """Pack the results of a noise, or of a breaker against listed noises, into one file for a board's maintainers.

    The results are those on your own board of SUITE, the seeds 0, 1 and so on. What would not be valid is refused.

    \b
    uebench submit demo --noise em --into em.zip --name "Ada Example"
    """
    from uebench.cli.console import print_line
    from uebench.storage.store import Store
    from uebench.submission.submit import submit_results

    submitter = {"name": name, "contact": contact, "paper": paper}
    submit_results(suite, lists, into, images, submitter, Store(store), boards, print_line)


@click.command()
@judging_options
def verify_command(bundle: Path, rerun: int, seed: int, **rest: Any) -> None:
    """Say how far BUNDLE is to be believed: valid in itself, and with --rerun, the same when it is run here.

    Nothing of a bundle is extracted, imported or installed. Running its cells again needs its plug-in installed, which
    is your decision. Status 0: what was asked holds; 1: running again was not possible, or disagrees; 2: refused.
    """
    from uebench.cli.console import print_line
    from uebench.submission.verify import verify_bundle

    sys.exit(int(not verify_bundle(bundle, rerun, seed, _desk(**rest), print_line, _watch).agreed))


@click.command()
@judging_options
def accept_command(bundle: Path, rerun: int, seed: int, **rest: Any) -> None:
    """Verify BUNDLE in the same way, and take it onto its board; what verify ran is not run again."""
    from uebench.cli.console import print_line
    from uebench.submission.decisions import accept_entry
    from uebench.submission.verify import verify_bundle

    desk = _desk(**rest)
    judged = verify_bundle(bundle, rerun, seed, desk, print_line, _watch)
    if judged.agreed:
        accept_entry(judged, desk, print_line)
    sys.exit(int(not judged.agreed))


def _watch(names: Mapping[str, str], cells: int) -> Any:
    from uebench.cli.console import make_console
    from uebench.cli.progress import make_listener

    return make_listener(make_console(), names, cells)


def _desk(boards: Path, suite: str | None, **rest: Any) -> Any:
    from uebench.executors.settings import ExecutionSettings
    from uebench.submission.verify import VerificationSettings

    lists = {name: rest.pop(name) for name in ("noises", "targets", "datasets")}
    return VerificationSettings(boards, ExecutionSettings(**rest), suite, **lists)


@click.command()
@click.argument("suite")
@click.option("--noise", required=True, metavar="NAME", help="The noise, as the board calls it.")
@click.option("--reason", required=True, help="Why; it stands on the board.")
@store_option
@boards_option
def withdraw_command(suite: str, noise: str, reason: str, store: Path, boards: Path) -> None:
    """Take the rank of a noise on SUITE's board; its row and its numbers stay, with the reason."""
    from uebench.cli.console import print_line
    from uebench.storage.store import Store
    from uebench.submission.decisions import withdraw_entry

    withdraw_entry(suite, noise, reason, Store(store), boards, print_line)


SUBMISSION_COMMANDS = (submit_command, verify_command, accept_command, withdraw_command)
