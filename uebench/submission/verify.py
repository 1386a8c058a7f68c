"""`uebench verify`: checks what a bundle states, and runs a sample of its cells again where that is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from uebench.board.publish import read_board
from uebench.components.component import Component
from uebench.components.errors import UserError
from uebench.components.grammar import nearest_match
from uebench.components.registry import registry
from uebench.components.spec import canonical_text
from uebench.planning.job_names import job_name
from uebench.planning.suite_file import available_suites, read_suite
from uebench.submission.bundle import content_sha256, read_bundle
from uebench.submission.bundle_checks import check_bundle
from uebench.submission.entry import Entry, entry_from_bundle, find_obstacle, new_results
from uebench.submission.reports import RerunReport, VerificationReport, summarise_bundle
from uebench.submission.rerun import check_counts, compare_rerun, draw_sample, prepare_rerun

if TYPE_CHECKING:
    from uebench.executors.messages import OpenListener
    from uebench.executors.settings import ExecutionSettings


@dataclass(frozen=True)
class VerificationSettings:
    """Where bundles are verified: the folder of boards, how cells are run, and what bundles do not state.

    `suite` is a name or a path in place of the bundle's. `noises`, `targets` and `datasets` are specifications of
    components that need more than their canonical text, such as a path.
    """

    boards: Path
    execution: ExecutionSettings
    suite: str | None = None
    noises: Sequence[str] = ()
    targets: Sequence[str] = ()
    datasets: Sequence[str] = ()


def verify_bundle(path: Path, settings: VerificationSettings) -> VerificationReport:
    """Check a bundle without running anything; raises `UserError` for one that is not valid."""
    bundle = read_bundle(path)
    name = settings.suite or bundle.manifest["suite"]
    if not settings.suite and name not in available_suites():  # text of an untrusted file never becomes a path
        raise UserError(
            f"unknown suite {name!r}{nearest_match(name, available_suites())}; or give its file with --suite"
        )
    suite = read_suite(name)
    board, rulings = read_board(settings.boards, suite)
    references = check_bundle(bundle, suite, board, rulings, datetime.now(UTC))
    entry = entry_from_bundle(bundle, suite)
    report = VerificationReport(bundle, suite, entry, summarise_bundle(bundle, entry), references)
    return replace(report, obstacle=find_obstacle(bundle, entry, board, rulings, report.badge))


def rerun_sample(
    report: VerificationReport, count: int, seed: int, settings: VerificationSettings, open_listener: OpenListener
) -> VerificationReport:
    """Run up to `count` cells of a valid bundle again, drawn by the seed; returns the report with the outcome.

    The store is one of its own, so that no result is compared with itself. Raises `UserError` where an accuracy is no
    whole number of test images, or a device is not available.
    """
    from uebench.executors.messages import RunOutline
    from uebench.executors.scheduler import JobQueue  # loads torch, which nothing else here needs

    settings.execution.check()
    board, rulings = read_board(settings.boards, report.suite)
    drawn = draw_sample(new_results(report.bundle, report.entry, board), report.bundle.sha256, count, seed)
    execution = replace(settings.execution, store=settings.execution.store / "rerun")
    store = execution.open_store()
    try:
        prepared = prepare_rerun(report.entry, drawn, _given_components(report.entry, settings), store)
    except UserError as error:
        return replace(report, rerun=RerunReport(seed, len(drawn), impossible=str(error)))
    check_counts(report.bundle, prepared.images)
    store.prepare()
    plan = prepared.plan
    names = {job.key: job_name(prepared.selection, job) for job in plan.jobs}
    with open_listener(RunOutline(names, len(plan.cells))) as listener:
        queue = JobQueue(listener)
        execution.execute(plan, queue)
    same_images = {}
    for job in plan.protects:
        files, claimed = store.find(job.key), report.bundle.manifest["released"].get(job.key)
        if files and claimed:
            same_images[names[job.key]] = content_sha256(files["released.safetensors"]) == claimed
    failures = {names[key]: reason for key, reason in queue.failures.items()}
    agreements = compare_rerun(report.bundle, queue.results, prepared.images)
    report = replace(report, rerun=RerunReport(seed, len(drawn), "", failures, same_images, agreements))
    return replace(report, obstacle=find_obstacle(report.bundle, report.entry, board, rulings, report.badge))


def _given_components(entry: Entry, settings: VerificationSettings) -> dict[str, Component]:
    """Return the components that the maintainer specified, by canonical text."""
    specifications = (("noise", settings.noises), ("target", settings.targets), ("dataset", settings.datasets))
    components = [registry().build(kind, text, entry.part.defaults) for kind, texts in specifications for text in texts]
    return {canonical_text(component): component for component in components}
