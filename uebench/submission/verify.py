"""Judges bundles: checks what they say, and runs a sample of their cells again where that is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from uebench.board.publish import read_board
from uebench.components.component import Component
from uebench.components.errors import UserError
from uebench.components.grammar import nearest_match
from uebench.components.registry import registry
from uebench.components.spec import canonical_text
from uebench.executors.scheduler import JobQueue, Listener
from uebench.executors.settings import ExecutionSettings
from uebench.planning.job_names import job_name
from uebench.planning.suite import Suite, available_suites, read_suite
from uebench.storage.history import Badge
from uebench.storage.result import Result
from uebench.submission.bundle import Bundle, content_sha256, read_bundle
from uebench.submission.bundle_checks import check_bundle
from uebench.submission.entry import Entry, entry_from_bundle
from uebench.submission.rerun import check_counts, compare_rerun, draw_sample, prepare_rerun
from uebench.submission.submit import describe_bundle

Say = Callable[[str], None]
"""Takes a line for the person who asked."""
Watch = Callable[[Mapping[str, str], int], AbstractContextManager[Listener]]
"""Returns what follows a run, given the names of its jobs by key and the number of its cells."""


@dataclass(frozen=True)
class VerificationSettings:
    """Where bundles are judged: the folder of boards, the machine for runs, and what bundles do not say.

    `suite` is a name or a path in place of the bundle's, `noises`, `targets` and `datasets` are specifications of
    components that need more than their canonical text, such as a path.
    """

    boards: Path
    machine: ExecutionSettings
    suite: str | None = None
    noises: Sequence[str] = ()
    targets: Sequence[str] = ()
    datasets: Sequence[str] = ()


@dataclass(frozen=True)
class VerificationReport:
    """A valid bundle, what it hands in to which suite, and what running a sample of it again gave, if that was asked.

    `agreed` tells whether everything that was asked was done and held.
    """

    found: Bundle
    suite: Suite
    made: Entry
    badge: Badge = "valid"
    again: Mapping[str, Any] | None = None
    agreed: bool = True


def verify_bundle(
    path: Path, count: int, seed: int, desk: VerificationSettings, say: Say, watch: Watch
) -> VerificationReport:
    """Check a bundle, run so many of its cells again, drawn by the seed, and say what came of it.

    Raises `UserError` for a bundle that is not valid, and where there is no device to run cells on.
    """
    if count:
        desk.machine.check()
    found = read_bundle(path)
    name = desk.suite or found.manifest["suite"]
    if not desk.suite and name not in available_suites():  # a stranger's text never becomes a path
        raise UserError(
            f"unknown suite {name!r}{nearest_match(name, available_suites())}; or give its file with --suite"
        )
    suite = read_suite(name)
    board, rulings = read_board(desk.boards, suite)
    references = check_bundle(found, suite, board, rulings, datetime.now(UTC))
    judged = VerificationReport(found, suite, entry_from_bundle(found, suite))
    describe_bundle(found, judged.made, say)
    most = max((agreement.deviations for agreement in references), default=0.0)
    apart = f", at most {most:.1f} standard deviations apart" if references else ""
    say(f"checks    hold; {len(references)} references are on the board{apart}")
    if count:
        new = [result for result in found.results if judged.made.own(result) or result.key not in board]
        judged = _again(judged, draw_sample(new, found.sha256, count, seed), seed, desk, say, watch)
    say(f"badge     {judged.badge}")
    return judged


def _again(
    judged: VerificationReport, chosen: Sequence[Result], seed: int, desk: VerificationSettings, say: Say, watch: Watch
) -> VerificationReport:
    """Run results again, in a store of its own, so that no result is compared with itself."""
    machine = replace(desk.machine, store=desk.machine.store / "rerun")
    store = machine.open()
    try:
        prepared = prepare_rerun(judged.made, chosen, _given(judged.made, desk), store)
    except UserError as error:
        say(f"re-run    not possible: {error}")
        return replace(judged, agreed=False)
    check_counts(judged.found, prepared.images)
    store.prepare()
    plan = prepared.plan
    called = {job.key: job_name(prepared.selection, job) for job in plan.jobs}
    with watch(called, len(plan.cells)) as watching:
        queue = JobQueue(watching)
        machine.execute(plan, queue)
    for key, reason in queue.failures.items():
        say(f"re-run    failed: {called[key]}: {reason}")
    for job in plan.protects:
        files, claimed = store.find(job.key), judged.found.manifest["released"].get(job.key)
        if files and claimed:
            same = content_sha256(files["released.safetensors"]) == claimed
            say(f"re-run    {called[job.key]}: {'the same bytes' if same else 'other bytes than claimed'}")
    agreements = compare_rerun(judged.found, queue.results, prepared.images)
    for agreement in agreements:
        say(f"re-run    {agreement}{'' if agreement.holds else ': DISAGREES'}")
    say(f"re-run    {len(agreements)} of {len(chosen)} cells, verification seed {seed}")
    if len(agreements) < len(chosen) or not all(agreement.holds for agreement in agreements):
        return replace(judged, agreed=False)
    most = round(max(agreement.deviations for agreement in agreements), 3)
    return replace(judged, badge="re-run", again={"cells": len(agreements), "seed": seed, "deviations": most})


def _given(made: Entry, desk: VerificationSettings) -> dict[str, Component]:
    """Return the components that the maintainer specified, by canonical text."""
    lists = (("noise", desk.noises), ("target", desk.targets), ("dataset", desk.datasets))
    built = [registry().build(kind, text, made.part.defaults) for kind, texts in lists for text in texts]
    return {canonical_text(component): component for component in built}
