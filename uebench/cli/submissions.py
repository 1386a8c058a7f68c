"""submit, verify, accept and withdraw: the commands for entries, and what they print of the reports."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uebench.cli.completion import complete_suites
from uebench.cli.options import PATH, boards_option, json_option, read_boards_option, store_option, verification_options
from uebench.cli.run import make_settings, open_listener

if TYPE_CHECKING:
    from uebench.submission.reports import BoardUpdate, BundleSummary, RerunReport, VerificationReport
    from uebench.submission.verify import VerificationSettings


@click.command(short_help="Pack results for the maintainers of a board.")
@click.argument("suite", shell_complete=complete_suites)
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
@read_boards_option
def submit_command(
    suite: str,
    into: Path,
    images: bool,
    name: str,
    contact: str,
    paper: str,
    store: Path,
    boards: Path,
    **specifications: Any,
) -> None:
    """Pack the results of a noise, or of a breaker against listed noises, into one file for a board's maintainers.

    The results are those on your own board of SUITE, the seeds 0, 1 and so on. What would not be valid is refused.

    \b
    uebench submit demo --noise em --into em.zip --name "Ada Example"
    """
    from uebench.storage.store import Store
    from uebench.submission.submit import SubmissionRequest, submit_results

    request = SubmissionRequest(suite, submitter=name, contact=contact, paper=paper, images=images, **specifications)
    report = submit_results(request, into, Store(store), boards)
    _print_lines(_summary_lines(report.summary))
    _print_lines([f"badge     claimed; send {into} to the maintainers of the board"])


@click.command(short_help="Check a bundle, and run some of its cells again.")
@verification_options
@json_option
def verify_command(bundle: Path, rerun: int, seed: int, as_json: bool, **options: Any) -> None:
    """Check that BUNDLE is valid; with --rerun, also run some of its cells here and compare the numbers.

    Nothing of a bundle is extracted, imported or installed. To run its cells you need its plug-in; whether you install
    it is your decision. Status 0: everything you asked for holds; 1: a re-run was not possible, or disagrees; 2: the
    bundle is refused.
    """
    report = _verify(bundle, rerun, seed, _settings(**options), quiet=as_json)
    if as_json:
        from uebench.cli.console import print_json

        print_json(_verification_document(report))
    sys.exit(int(not report.agreed))


@click.command(short_help="Verify a bundle, and add it to its board.")
@verification_options
def accept_command(bundle: Path, rerun: int, seed: int, **options: Any) -> None:
    """Verify BUNDLE in the same way, and add it to its board; cells that verify ran are not run again."""
    from uebench.submission.decisions import accept_entry

    settings = _settings(**options)
    report = _verify(bundle, rerun, seed, settings)
    if report.agreed:
        _print_update(accept_entry(report, settings))
    sys.exit(int(not report.agreed))


def _settings(boards: Path, suite: str | None, **options: Any) -> VerificationSettings:
    from uebench.submission.verify import VerificationSettings

    specifications = {name: options.pop(name) for name in ("noises", "targets", "datasets")}
    return VerificationSettings(boards, make_settings(**options), suite, **specifications)


def _verify(
    bundle: Path, count: int, seed: int, settings: VerificationSettings, quiet: bool = False
) -> VerificationReport:
    """Verify a bundle and, unless `quiet`, print each part of the report as soon as it is known."""
    from uebench.submission.verify import rerun_sample, verify_bundle

    if count:
        settings.execution.check()
    report = verify_bundle(bundle, settings)
    if quiet:
        listener = partial(open_listener, errors=True)
        return rerun_sample(report, count, seed, settings, listener) if count else report
    _print_lines(_summary_lines(report.summary))
    largest = max((agreement.deviations for agreement in report.references), default=0.0)
    distance = f", at most {largest:.1f} standard deviations apart" if report.references else ""
    _print_lines([f"checks    hold; {len(report.references)} references are on the board{distance}"])
    if count:
        report = rerun_sample(report, count, seed, settings, open_listener)
        assert report.rerun
        _print_lines(_rerun_lines(report.rerun))
    if report.obstacle:
        _print_lines([f"accept    would refuse it: {report.obstacle}"])
    _print_lines([f"badge     {report.badge}"])
    return report


@click.command(short_help="Take the rank of a noise, with a reason.")
@click.argument("suite", shell_complete=complete_suites)
@click.option("--noise", required=True, metavar="NAME", help="The noise, as the board calls it.")
@click.option("--reason", required=True, help="Why; it stands on the board.")
@store_option
@boards_option
def withdraw_command(suite: str, noise: str, reason: str, store: Path, boards: Path) -> None:
    """Take the rank of a noise on SUITE's board; its row and its numbers stay, with the reason."""
    from uebench.storage.store import Store
    from uebench.submission.decisions import withdraw_entry

    _print_update(withdraw_entry(suite, noise, reason, Store(store), boards))


def _verification_document(report: VerificationReport) -> dict[str, Any]:
    """Return the outcome of a verification for JSON."""
    parts = {"summary": report.summary, "references": report.references, "rerun": report.rerun}
    return {**parts, "agreed": report.agreed, "badge": report.badge, "obstacle": report.obstacle}


def _summary_lines(summary: BundleSummary) -> Iterator[str]:
    """Yield the lines that describe a bundle."""
    from uebench.board.standings import SEEDS

    noises = ", ".join(summary.noises)
    entry = f"breaker {summary.breaker} against {noises}" if summary.breaker else f"noise {noises}"
    seeds = ", ".join(map(str, summary.seeds))
    provisional = f"; provisional, a rank needs {SEEDS} seeds" if summary.provisional else ""
    yield f"bundle    sha256 {summary.sha256}"
    yield f"entry     {entry} on {summary.dataset} in suite {summary.suite}, by {summary.submitter}"
    yield f"cells     {summary.results} results, {summary.own_results} of the entry itself, seeds {seeds}{provisional}"
    yield f"log       of {summary.logged_results} of {summary.results} results"
    for distribution in summary.distributions:
        yield f"plug-in   {distribution.name} {distribution.version}; here: {distribution.installed}"


def _rerun_lines(rerun: RerunReport) -> Iterator[str]:
    """Yield the lines that describe the cells that were run again."""
    if rerun.impossible:
        yield f"re-run    not possible: {rerun.impossible}"
        return
    for name, reason in (rerun.failures or {}).items():
        yield f"re-run    failed: {name}: {reason}"
    for name, same in (rerun.same_images or {}).items():
        yield f"re-run    {name}: {'the same bytes' if same else 'other bytes than claimed'}"
    for agreement in rerun.agreements:
        yield f"re-run    {agreement}{'' if agreement.holds else ': DISAGREES'}"
    yield f"re-run    {len(rerun.agreements)} of {rerun.drawn} cells, verification seed {rerun.seed}"


def _print_update(update: BoardUpdate) -> None:
    lines = [
        f"changed   {change.noise}: {_row_text(change.before)} -> {_row_text(change.after)}"
        for change in update.changes
    ]
    _print_lines([*lines, f"Board: {update.folder / 'README.md'}"])


def _row_text(value: Mapping[str, Any] | None) -> str:
    """Write a row of a board in short."""
    if value is None or value["status"] == "reference":
        return "not listed" if value is None else "reference"
    protection = value["residual_protection"]
    number = "" if protection is None else f", {100 * protection:.1f} ({value['worst_breaker']})"
    return f"{value['status']}{number}"


def _print_lines(lines: Iterable[str]) -> None:
    from uebench.cli.console import print_line

    for line in lines:
        print_line(line)


SUBMISSION_COMMANDS = (submit_command, verify_command, accept_command, withdraw_command)
