"""What the commands that do work do: run a suite, export a protected set, measure a device."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import click
import torch
from rich.console import Console

from uebench import bench as benching
from uebench import display, forecast, leaderboard, naming, pages, preview, progress, schedule, tables
from uebench import export as exporting
from uebench import plan as planning
from uebench.api import Breaker, Noise, Source
from uebench.data import fingerprint, load, names
from uebench.errors import UserError
from uebench.files import sweep, write_whole
from uebench.machine import Machine
from uebench.origin import made_with, now
from uebench.pages import rebuild
from uebench.plan import Plan
from uebench.registry import registry
from uebench.selection import Selection, select
from uebench.store import Store
from uebench.suite import Suite, read
from uebench.survey import Survey
from uebench.work import finished


def run(suite: str, lists: dict[str, Any], machine: Machine, boards: Path, dry: bool) -> int:
    """Run a suite, or a part of it, and rank the results; returns the exit status."""
    console, chosen = display.console(), read(suite)
    selections, store = select(chosen, **lists, ranked=True), machine.open()
    machine.check()
    survey = Survey(store, machine.patience)
    plans = [_plan(selection, survey.fingerprint) for selection in selections]
    wanted = planning.of(cell for one in plans for cell in one.cells)
    plan = survey.sound(wanted)
    part = {job.key: selection for selection, one in zip(selections, plans, strict=True) for job in one.jobs}
    called = naming.names(part, plan.jobs)
    given = lists.get("breakers") or chosen.required_breakers
    if chosen.required_run and (along := [text for text in chosen.required_breakers if text not in given]):
        click.echo(f"Along with the breakers that every rank needs: {', '.join(along)}")
    if dry:
        used, workers = machine.crew()
        torch.set_num_threads(machine.threads)
        preview.show(console, f"suite {chosen.name}", plan, called, store, used * workers)
        return _broken(survey, wanted)
    folder = boards / chosen.name
    recorded = leaderboard.read(folder / "results.jsonl")  # a broken record is reported before hours of work
    store.prepare()
    left = [job for job in plan.jobs if not store.holds(job.key)]
    survey.prepare(left)
    plan = survey.sound(wanted)
    survey.build(left)
    _broken(survey, wanted)  # said before all work, and after it
    with progress.listener(console, called, len(plan.cells)) as watching:
        queue = schedule.Queue(watching, recorded=recorded)
        through = machine.execute(plan, queue)
    done = [
        one if one is recorded.get(cell.key) else pages.labelled(part[cell.key], cell, one)
        for cell in plan.cells
        if (one := queue.results.get(cell.key))
    ]
    _publish(console, folder, chosen, done, store, _galleries(part, plan, store))
    _broken(survey, wanted)
    return _tell(queue, called, through, len(done), len(wanted.cells), "cells")


def export(suite: str | None, lists: dict[str, Any], machine: Machine, folder: Path, array: exporting.Array) -> int:
    """Make one noise for one data set and write the protected set into a folder; returns the exit status."""
    exporting.refuse(folder)
    if folder.resolve() in (machine.store.resolve(), *machine.store.resolve().parents):
        raise UserError(f"the store {machine.store} lies in {folder}; export into another folder")
    selections, store = select(read(suite) if suite else Suite("", ""), **lists), machine.open()
    selection = selections[0]
    for kind, found in (("noise", selection.noises), ("dataset", selection.sources), ("seed", selection.seeds)):
        if len(found) != 1 or len(selections) != 1:
            raise UserError(f"an export is of one {kind}, not {len(found)}; say which with --{kind}")
    (source,), (noise,), (seed,) = selection.sources, selection.noises, selection.seeds
    job = planning.protect(source, fingerprint(source, store), noise, selection.recipe, seed)
    plan = Plan(job.victims, [job], [])
    store.prepare()
    console, called = display.console(), {one.key: naming.name(selection, one) for one in plan.jobs}
    with progress.listener(console, called, 0) as watching:
        queue = schedule.Queue(watching)
        through = machine.execute(plan, queue)
    left = sum(not finished(one, store) for one in plan.jobs)
    status = _tell(queue, called, through, len(plan.jobs) - left, len(plan.jobs), "jobs")
    if status:
        return status
    try:
        data = exporting.export(job, store, folder, array)
    except KeyboardInterrupt:
        return _tell(queue, called, False, len(plan.jobs), len(plan.jobs), "jobs")
    line = f"{len(names(data))} protected images and their manifest: {folder}"
    console.print(line, soft_wrap=True, markup=False, highlight=False)
    for line in data.skipped:
        click.echo(f"left out: {line}", err=True)
    return int(bool(data.skipped))


def bench(suites: Sequence[str], lists: dict[str, Any], machine: Machine, seconds: float, into: Path | None) -> None:
    """Measure every network of some suites on this device, keep the rates, and tell what each suite takes."""
    console, store = display.console(), machine.open()
    used, workers = machine.crew()
    device = torch.device(used[0])
    torch.set_num_threads(machine.threads)
    plans = {}
    for name in suites:
        selections = select(read(name), **lists)
        plans[name] = planning.of(
            cell for one in selections for cell in _plan(one, partial(fingerprint, store=store)).cells
        )
    store.prepare()
    found = []
    for one in forecast.networks(job for plan in plans.values() for job in plan.jobs):
        data = load(one.source, one.fingerprint, store)
        channels, height, width = data.test.images.shape[1:]
        speeds = benching.measure(one.target, (channels, height, width), len(data.classes), one.recipe, device, seconds)
        mean = sum(1 / speed.images_per_second for speed in speeds) / len(speeds)
        forecast.note(one, store, device, mean * sum(forecast.passes(one).values()))
        found += [speed.facts() for speed in speeds]
    machine_facts = made_with(device)
    facts = {"made_with": machine_facts, "finished": now(), "speeds": found}
    display.show(console, f"on {machine_facts['device']}", *preview.speeds(found), numbers=True)
    for name, plan in plans.items():
        console.print(f"Suite {name}. {preview.total(plan, {job.key for job in plan.jobs}, store, used * workers)}")
    if into:
        write_whole(into, (json.dumps(facts, indent=1, sort_keys=True) + "\n").encode())


def _broken(survey: Survey, plan: Plan) -> int:
    """Tell which data sets of a plan cannot be used; returns the exit status."""
    for line in survey.failures(plan):
        click.echo(f"failed: {line}", err=True)
    return int(bool(survey.broken))


def _tell(queue: schedule.Queue, called: dict[str, str], through: bool, done: int, count: int, what: str) -> int:
    """Tell what failed or was interrupted; returns the exit status."""
    for key, reason in queue.failures.items():
        click.echo(f"failed: {called[key]}: {reason}", err=True)
    if not through:
        click.echo(f"Stopped with {done} of {count} {what} done. The same command goes on from here.", err=True)
        return 130
    if done < count:
        click.echo(f"{count - done} of {count} {what} are missing. The same command tries them again.", err=True)
    return int(done < count)


def _plan(selection: Selection, content: Callable[[Source], str]) -> Plan:
    nothing, plain = cast(Noise, registry().build("noise", "none")), cast(Breaker, registry().build("breaker", "none"))
    return planning.plan(selection, nothing, (plain,), [content(source) for source in selection.sources])


def _galleries(part: dict[str, Selection], plan: Plan, store: Store) -> dict[str, bytes]:
    """Return the pictures of each finished noise, of its first data set and seed, by the noise's name."""
    found: dict[str, bytes] = {}
    for job in plan.protects:
        name = naming.noise(part[job.key], job)
        files = store.find(job.key, thorough=False) if name not in found else None
        if files:
            found[name] = files["gallery.png"].read_bytes()
    return found


def _publish(
    console: Console, folder: Path, suite: Suite, fresh: Sequence[Any], store: Store, galleries: dict[str, bytes]
) -> None:
    """Merge results into a board's record, rebuild its files and print its tables."""
    path = folder / "results.jsonl"
    with store.lock(f"board-{suite.name}", wait=True):
        recorded = leaderboard.read(path)
        merged, conflicts = leaderboard.merge(recorded, fresh)
        if not merged:
            return
        for name in (path.name, *pages.FILES):
            sweep(folder / name)
        if merged != recorded:
            leaderboard.write(path, merged)
        pages.hang(folder, galleries)
        boards = rebuild(folder, suite, merged)
    for board in boards:
        display.show(console, board.title, *tables.noises(board, brief=True), numbers=True)
        display.show(console, "breakers", *tables.breakers(board), numbers=True)
    for line in conflicts:
        click.echo(f"note: other numbers on record: {line}", err=True)
    console.print(f"Board: {folder / 'README.md'}", soft_wrap=True)
