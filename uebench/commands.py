"""What the commands that do work do: run a suite, export a protected set, rebuild or draw a board."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import click
import torch
from rich.console import Console

from uebench import bench as benching
from uebench import compare as comparing
from uebench import display, executors, forecast, history, leaderboard, naming, pages, preview, ranking
from uebench import export as exporting
from uebench import plan as planning
from uebench.api import Breaker, Noise, UserError
from uebench.data import complete, fingerprint, load, names
from uebench.place import Place, made_with, now
from uebench.plan import Plan
from uebench.registry import registry
from uebench.result import Result
from uebench.selection import Selection, select
from uebench.store import Store, sweep, write_whole
from uebench.suite import Suite, read
from uebench.work import finished, made_by


@dataclass(frozen=True)
class Machine:
    """Where a command does its work: the store, the devices, and how many processes and threads it uses."""

    store: Path
    device: str | None
    workers: int | None
    threads: int
    keep_every: float

    def open(self) -> Store:
        """Return the store; what it finds damaged is told on standard error."""
        return Store(self.store, lambda line: click.echo(f"note: {line}", err=True))

    def crew(self) -> tuple[list[str], int]:
        """Return the devices to use and the number of processes for each."""
        used = executors.devices(self.device)
        return used, self.workers or (1 if used != ["cpu"] else max(1, executors.cores() // self.threads))

    def execute(self, plan: Plan, queue: executors.Queue) -> bool:
        """Run what a plan lacks; returns whether it went through, uninterrupted."""
        used, crew = self.crew()
        for name in _edited(plan, Store(self.store)):
            queue.listener.said(
                f"finished work was done with another content of {name}; "
                "raise the version of what you changed to do it again"
            )
        signal.signal(signal.SIGTERM, _interrupt)
        try:
            executors.execute(
                plan, queue, self.store, devices=used, workers=crew, threads=self.threads, every=self.keep_every
            )
        except KeyboardInterrupt:
            return False
        return True


def _interrupt(*_: object) -> None:
    """Stop as Ctrl-C does; in a shell's background jobs SIGINT itself is ignored."""
    raise KeyboardInterrupt


def run(suite: str, lists: dict[str, Any], machine: Machine, boards: Path, dry: bool) -> int:
    """Run a suite, or a part of it, and rank the results; returns the exit status."""
    console, chosen = display.console(), read(suite)
    selections, store = select(chosen, **lists), machine.open()
    executors.devices(machine.device)  # a wrong one is reported before anything else
    plans = [_plan(selection, store) for selection in selections]
    plan = planning.of(cell for one in plans for cell in one.cells)
    part = {job.key: selection for selection, one in zip(selections, plans, strict=True) for job in one.jobs}
    called = {job.key: naming.name(part[job.key], job) for job in plan.jobs}
    given = lists.get("breakers") or chosen.required_breakers
    if chosen.required_run and (along := [text for text in chosen.required_breakers if text not in given]):
        click.echo(f"Along with the breakers that every rank needs: {', '.join(along)}")
    if dry:
        used, workers = machine.crew()
        torch.set_num_threads(machine.threads)
        preview.show(console, f"suite {chosen.name}", plan, called, store, used * workers)
        return 0
    folder = boards / chosen.name
    leaderboard.read(folder / "results.jsonl")  # a broken record is reported before hours of work
    store.prepare()
    for job in {(one.source, one.fingerprint): one for one in plan.protects}.values():
        complete(job.source, load(job.source, job.fingerprint, store))  # what cannot be run is said before all work
    with display.listener(console, called, len(plan.cells)) as watching:
        queue = executors.Queue(watching)
        through = machine.execute(plan, queue)
    done = [
        naming.labelled(part[cell.key], cell, queue.results[cell.key])
        for cell in plan.cells
        if cell.key in queue.results
    ]
    _publish(console, folder, chosen, done, store, _galleries(part, plan, store))
    return _tell(queue, called, through, len(done), len(plan.cells), "cells")


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
    with display.listener(console, called, 0) as watching:
        queue = executors.Queue(watching)
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
        plans[name] = planning.of(cell for one in selections for cell in _plan(one, store).cells)
    store.prepare()
    found = []
    for one in forecast.networks(job for plan in plans.values() for job in plan.jobs):
        data = load(one.source, one.fingerprint, store)
        channels, height, width = data.test.images.shape[1:]
        speeds = benching.measure(one.target, (channels, height, width), len(data.classes), one.recipe, device, seconds)
        mean = sum(1 / speed.images_per_second for speed in speeds) / len(speeds)
        forecast.note(one, store, device, mean * sum(forecast.passes(one).values()))
        found += [speed.facts() for speed in speeds]
    machine_facts = made_with(Place(store, device))
    facts = {"made_with": machine_facts, "finished": now(), "speeds": found}
    display.show(console, f"on {machine_facts['device']}", *preview.speeds(found), numbers=True)
    for name, plan in plans.items():
        console.print(f"Suite {name}. {preview.total(plan, {job.key for job in plan.jobs}, store, used * workers)}")
    if into:
        write_whole(into, (json.dumps(facts, indent=1, sort_keys=True) + "\n").encode())


def rank(suite: str, into: Path | None, boards: Path) -> None:
    """Rebuild the files of a board, and its table in a document."""
    chosen, folder, results = _recorded(suite, boards)
    made = rebuild(folder, chosen, {one.key: one for one in results})
    if into:
        pages.insert(into, chosen, made)
    for board in made:
        display.show(display.console(), board.title, *pages.table(board, brief=True), numbers=True)


def plot(suite: str, boards: Path, into: Path | None) -> None:
    """Draw the figures that a board's record has the data for, and say which it has not."""
    from uebench import curves, plots  # no other command waits for matplotlib

    _, folder, results = _recorded(suite, boards)
    drawn, lacking = curves.of(results)
    looks, place = plots.styles(drawn), into or folder / "plots"
    for one in drawn:
        path = place / f"{one.name}.svg"
        write_whole(path, plots.svg(one, looks))
        click.echo(f"{path}: {one.title}; {one.setting}")
    for line in lacking:
        click.echo(f"not drawn: {line}")


def on_record(boards: Path, suite: Suite) -> tuple[dict[str, Result], history.Rulings]:
    """Return the results of a board by key, and what was decided about it."""
    folder = boards / suite.name
    return leaderboard.read(folder / "results.jsonl"), history.rulings(history.read(folder))


def rebuild(folder: Path, suite: Suite, results: Mapping[str, Result]) -> list[ranking.Board]:
    """Rank a board's results under the decisions in its history, and write every generated file; returns the boards."""
    boards = ranking.rank(suite, results.values(), history.rulings(history.read(folder)))
    pages.publish(folder, suite, boards)
    pages.index(folder.parent)
    return boards


def compare(suite: str, form: str, boards: Path) -> None:
    """Print a board's numbers beside the published ones, and what both say of the paper's claims."""
    chosen = read(suite)
    theirs = comparing.published(chosen)
    own = comparing.ours(chosen, leaderboard.read(boards / chosen.name / "results.jsonl").values())
    cells = own if theirs is None else comparing.beside(theirs, own)
    if form == "csv":
        click.echo(pages.csv(cells, 2), nl=False)
        return
    head, rows = comparing.table(cells)
    verdicts = comparing.verdicts(chosen, theirs, own)
    judged = [list(one.values()) for one in verdicts]
    if form == "table":
        display.show(display.console(), f"{chosen.title}: published and ours, in percent", head, rows)
        display.show(display.console(), "claims", list(verdicts[0]) if verdicts else ["claim"], judged)
    else:
        write = pages.markdown if form == "markdown" else pages.latex
        click.echo(write(head, rows))
        if verdicts:
            click.echo(write(list(verdicts[0]), judged), nl=False)


def _recorded(suite: str, boards: Path) -> tuple[Suite, Path, list[Result]]:
    """Return a suite, the folder of its board and the results there; raises `UserError` where there are none."""
    chosen = read(suite)
    folder = boards / chosen.name
    results = leaderboard.read(folder / "results.jsonl")
    if not results:
        raise UserError(f"{folder / 'results.jsonl'} holds no results; run `uebench run {suite}` first")
    return chosen, folder, list(results.values())


def _tell(queue: executors.Queue, called: dict[str, str], through: bool, done: int, count: int, what: str) -> int:
    """Tell what failed or was interrupted; returns the exit status."""
    for key, reason in queue.failures.items():
        click.echo(f"failed: {called[key]}: {reason}", err=True)
    if not through:
        click.echo(f"Stopped with {done} of {count} {what} done. The same command goes on from here.", err=True)
        return 130
    if done < count:
        click.echo(f"{count - done} of {count} {what} are missing. The same command tries them again.", err=True)
    return int(done < count)


def _plan(selection: Selection, store: Store) -> Plan:
    nothing, plain = cast(Noise, registry().build("noise", "none")), cast(Breaker, registry().build("breaker", "none"))
    fingerprints = [fingerprint(source, store) for source in selection.sources]
    return planning.plan(selection, nothing, (plain,), fingerprints)


def _edited(plan: Plan, store: Store) -> list[str]:
    """Return the names of plug-in files that had another content when finished jobs were done."""
    now = {file.name: file.release for file in registry().files}
    found = [made_by(job, store) for job in plan.jobs] if now else []
    return [name for name in now if any(versions.get(name, now[name]) != now[name] for versions in found)]


def _galleries(part: dict[str, Selection], plan: Plan, store: Store) -> dict[str, bytes]:
    """Return the pictures of each finished noise, of its first data set and seed, by the noise's name."""
    found: dict[str, bytes] = {}
    for job in plan.protects:
        name = naming.noise(part[job.key], job)
        files = store.find(job.key) if name not in found else None
        if files:
            found[name] = files["gallery.png"].read_bytes()
    return found


def _publish(
    console: Console, folder: Path, suite: Suite, fresh: Sequence[Any], store: Store, galleries: dict[str, bytes]
) -> None:
    """Merge results into a board's record, rebuild its files and print its tables."""
    path = folder / "results.jsonl"
    with store.lock(f"board-{suite.name}", wait=True):
        merged, conflicts = leaderboard.merge(leaderboard.read(path), fresh)
        if not merged:
            return
        for name in (path.name, *pages.FILES):
            sweep(folder / name)
        leaderboard.write(path, merged)
        pages.hang(folder, galleries)
        boards = rebuild(folder, suite, merged)
    for board in boards:
        display.show(console, board.title, *pages.table(board, brief=True), numbers=True)
        display.show(console, "breakers", *pages.breaker_table(board), numbers=True)
    for line in conflicts:
        click.echo(f"note: other numbers on record: {line}", err=True)
    console.print(f"Board: {folder / 'README.md'}", soft_wrap=True)
