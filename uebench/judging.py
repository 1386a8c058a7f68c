"""Judges bundles: checks what they say, and runs a sample of their cells again where that is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from uebench import bundle, grammar, naming, rerun, schedule, spec, submission
from uebench.bundle import Bundle
from uebench.component import Component
from uebench.entry import Entry, handed_in
from uebench.errors import UserError
from uebench.history import Badge
from uebench.machine import Machine
from uebench.pages import on_record
from uebench.registry import registry
from uebench.result import Result
from uebench.submitting import tell
from uebench.suite import Suite, available, read

Say = Callable[[str], None]
"""Takes a line for the person who asked."""
Watch = Callable[[Mapping[str, str], int], AbstractContextManager[schedule.Listener]]
"""Returns what follows a run, given the names of its jobs by key and the number of its cells."""


@dataclass(frozen=True)
class Desk:
    """Where bundles are judged: the folder of boards, the machine for runs, and what bundles do not say.

    `suite` is a name or a path in place of the bundle's, `noises`, `targets` and `datasets` are specifications of
    components that need more than their canonical text, such as a path.
    """

    boards: Path
    machine: Machine
    suite: str | None = None
    noises: Sequence[str] = ()
    targets: Sequence[str] = ()
    datasets: Sequence[str] = ()


@dataclass(frozen=True)
class Judged:
    """A valid bundle, what it hands in to which suite, and what running a sample of it again gave, if that was asked.

    `agreed` tells whether everything that was asked was done and held.
    """

    found: Bundle
    suite: Suite
    made: Entry
    badge: Badge = "valid"
    again: Mapping[str, Any] | None = None
    agreed: bool = True


def judge(path: Path, count: int, seed: int, desk: Desk, say: Say, watch: Watch) -> Judged:
    """Check a bundle, run so many of its cells again, drawn by the seed, and say what came of it.

    Raises `UserError` for a bundle that is not valid, and where there is no device to run cells on.
    """
    if count:
        desk.machine.check()
    found = bundle.read(path)
    name = desk.suite or found.manifest["suite"]
    if not desk.suite and name not in available():  # a stranger's text never becomes a path
        raise UserError(f"unknown suite {name!r}{grammar.nearest(name, available())}; or give its file with --suite")
    suite = read(name)
    board, rulings = on_record(desk.boards, suite)
    references = submission.check(found, suite, board, rulings, datetime.now(UTC))
    judged = Judged(found, suite, handed_in(found, suite))
    tell(found, judged.made, say)
    most = max((one.deviations for one in references), default=0.0)
    apart = f", at most {most:.1f} standard deviations apart" if references else ""
    say(f"checks    hold; {len(references)} references are on the board{apart}")
    if count:
        new = [one for one in found.results if judged.made.own(one) or one.key not in board]
        judged = _again(judged, rerun.sample(new, found.sha256, count, seed), seed, desk, say, watch)
    say(f"badge     {judged.badge}")
    return judged


def _again(judged: Judged, chosen: Sequence[Result], seed: int, desk: Desk, say: Say, watch: Watch) -> Judged:
    """Run results again, in a store of its own, so that no result is compared with itself."""
    machine = replace(desk.machine, store=desk.machine.store / "rerun")
    store = machine.open()
    try:
        prepared = rerun.prepare(judged.made, chosen, _given(judged.made, desk), store)
    except UserError as error:
        say(f"re-run    not possible: {error}")
        return replace(judged, agreed=False)
    rerun.check_counts(judged.found, prepared.images)
    store.prepare()
    plan = prepared.plan
    called = {job.key: naming.name(prepared.selection, job) for job in plan.jobs}
    with watch(called, len(plan.cells)) as watching:
        queue = schedule.Queue(watching)
        machine.execute(plan, queue)
    for key, reason in queue.failures.items():
        say(f"re-run    failed: {called[key]}: {reason}")
    for job in plan.protects:
        files, claimed = store.find(job.key), judged.found.manifest["released"].get(job.key)
        if files and claimed:
            same = bundle.sha256_of(files["released.safetensors"]) == claimed
            say(f"re-run    {called[job.key]}: {'the same bytes' if same else 'other bytes than claimed'}")
    agreements = rerun.compare(judged.found, queue.results, prepared.images)
    for one in agreements:
        say(f"re-run    {one}{'' if one.holds else ': DISAGREES'}")
    say(f"re-run    {len(agreements)} of {len(chosen)} cells, verification seed {seed}")
    if len(agreements) < len(chosen) or not all(one.holds for one in agreements):
        return replace(judged, agreed=False)
    most = round(max(one.deviations for one in agreements), 3)
    return replace(judged, badge="re-run", again={"cells": len(agreements), "seed": seed, "deviations": most})


def _given(made: Entry, desk: Desk) -> dict[str, Component]:
    """Return the components that the maintainer specified, by canonical text."""
    lists = (("noise", desk.noises), ("target", desk.targets), ("dataset", desk.datasets))
    built = [registry().build(kind, text, made.part.defaults) for kind, texts in lists for text in texts]
    return {spec.canonical(one): one for one in built}
