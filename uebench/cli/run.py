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

from uebench.board.publish import GENERATED_FILES, label_result, rebuild_board, write_gallery
from uebench.board.tables import breaker_table, noise_table
from uebench.cli.console import make_console, print_table
from uebench.cli.dry_run import describe_total, print_dry_run, speed_table
from uebench.cli.progress import make_listener
from uebench.components.errors import UserError
from uebench.components.interfaces import Breaker, Noise, Source
from uebench.components.registry import registry
from uebench.compute.throughput import measure_steps
from uebench.executors.preflight import Preflight
from uebench.executors.scheduler import JobQueue
from uebench.executors.settings import ExecutionSettings
from uebench.jobs.datasets import content_fingerprint, image_names, load_dataset
from uebench.jobs.environment import current_time, made_with
from uebench.jobs.export import ArrayFormat, check_export_folder, write_export
from uebench.jobs.forecast import count_passes, networks_to_measure, record_time
from uebench.jobs.run import find_finished
from uebench.planning.job_names import job_name, name_jobs, noise_name
from uebench.planning.plan import Plan, plan_cells, plan_protect, plan_selection
from uebench.planning.selection import Selection, select_components
from uebench.planning.suite import Suite, read_suite
from uebench.storage.atomic_files import remove_scratch_files, write_atomically
from uebench.storage.results_file import merge_results, read_results, write_results
from uebench.storage.store import Store


def run_suite(suite: str, lists: dict[str, Any], machine: ExecutionSettings, boards: Path, dry: bool) -> int:
    """Run a suite, or a part of it, and rank the results; returns the exit status."""
    console, chosen = make_console(), read_suite(suite)
    selections, store = select_components(chosen, **lists, ranked=True), machine.open()
    machine.check()
    survey = Preflight(store, machine.patience)
    plans = [_plan(selection, survey.fingerprint) for selection in selections]
    wanted = plan_cells(cell for plan in plans for cell in plan.cells)
    plan = survey.sound(wanted)
    part = {job.key: selection for selection, plan in zip(selections, plans, strict=True) for job in plan.jobs}
    called = name_jobs(part, plan.jobs)
    given = lists.get("breakers") or chosen.required_breakers
    if chosen.required_run and (along := [text for text in chosen.required_breakers if text not in given]):
        click.echo(f"Along with the breakers that every rank needs: {', '.join(along)}")
    if dry:
        used, workers = machine.crew()
        torch.set_num_threads(machine.threads)
        print_dry_run(console, f"suite {chosen.name}", plan, called, store, used * workers)
        return _broken(survey, wanted)
    folder = boards / chosen.name
    recorded = read_results(folder / "results.jsonl")  # a broken record is reported before hours of work
    store.prepare()
    left = [job for job in plan.jobs if not store.holds(job.key)]
    survey.prepare(left)
    plan = survey.sound(wanted)
    survey.build(left)
    _broken(survey, wanted)  # said before all work, and after it
    with make_listener(console, called, len(plan.cells)) as watching:
        queue = JobQueue(watching, recorded=recorded)
        through = machine.execute(plan, queue)
    done = [
        one if one is recorded.get(cell.key) else label_result(part[cell.key], cell, one)
        for cell in plan.cells
        if (one := queue.results.get(cell.key))
    ]
    _publish(console, folder, chosen, done, store, _galleries(part, plan, store))
    _broken(survey, wanted)
    return _tell(queue, called, through, len(done), len(wanted.cells), "cells")


def export_set(
    suite: str | None, lists: dict[str, Any], machine: ExecutionSettings, folder: Path, array: ArrayFormat
) -> int:
    """Make one noise for one data set and write the protected set into a folder; returns the exit status."""
    check_export_folder(folder)
    if folder.resolve() in (machine.store.resolve(), *machine.store.resolve().parents):
        raise UserError(f"the store {machine.store} lies in {folder}; export into another folder")
    selections, store = select_components(read_suite(suite) if suite else Suite("", ""), **lists), machine.open()
    selection = selections[0]
    for kind, values in (("noise", selection.noises), ("dataset", selection.sources), ("seed", selection.seeds)):
        if len(values) != 1 or len(selections) != 1:
            raise UserError(f"an export is of one {kind}, not {len(values)}; say which with --{kind}")
    (source,), (noise,), (seed,) = selection.sources, selection.noises, selection.seeds
    job = plan_protect(source, content_fingerprint(source, store), noise, selection.recipe, seed)
    plan = Plan(job.victims, [job], [])
    store.prepare()
    console, called = make_console(), {job.key: job_name(selection, job) for job in plan.jobs}
    with make_listener(console, called, 0) as watching:
        queue = JobQueue(watching)
        through = machine.execute(plan, queue)
    left = sum(not find_finished(job, store) for job in plan.jobs)
    status = _tell(queue, called, through, len(plan.jobs) - left, len(plan.jobs), "jobs")
    if status:
        return status
    try:
        data = write_export(job, store, folder, array)
    except KeyboardInterrupt:
        return _tell(queue, called, False, len(plan.jobs), len(plan.jobs), "jobs")
    line = f"{len(image_names(data))} protected images and their manifest: {folder}"
    console.print(line, soft_wrap=True, markup=False, highlight=False)
    for line in data.skipped:
        click.echo(f"left out: {line}", err=True)
    return int(bool(data.skipped))


def bench_suites(
    suites: Sequence[str], lists: dict[str, Any], machine: ExecutionSettings, seconds: float, into: Path | None
) -> None:
    """Measure every network of some suites on this device, keep the rates, and tell what each suite takes."""
    console, store = make_console(), machine.open()
    used, workers = machine.crew()
    device = torch.device(used[0])
    torch.set_num_threads(machine.threads)
    plans = {}
    for name in suites:
        selections = select_components(read_suite(name), **lists)
        plans[name] = plan_cells(
            cell
            for selection in selections
            for cell in _plan(selection, partial(content_fingerprint, store=store)).cells
        )
    store.prepare()
    found = []
    for network in networks_to_measure(job for plan in plans.values() for job in plan.jobs):
        data = load_dataset(network.source, network.fingerprint, store)
        channels, height, width = data.test.images.shape[1:]
        speeds = measure_steps(
            network.target, (channels, height, width), len(data.classes), network.recipe, device, seconds
        )
        mean = sum(1 / speed.images_per_second for speed in speeds) / len(speeds)
        record_time(network, store, device, mean * sum(count_passes(network).values()))
        found += [speed.facts() for speed in speeds]
    machine_facts = made_with(device)
    facts = {"made_with": machine_facts, "finished": current_time(), "speeds": found}
    print_table(console, f"on {machine_facts['device']}", *speed_table(found), numbers=True)
    for name, plan in plans.items():
        console.print(f"Suite {name}. {describe_total(plan, {job.key for job in plan.jobs}, store, used * workers)}")
    if into:
        write_atomically(into, (json.dumps(facts, indent=1, sort_keys=True) + "\n").encode())


def _broken(survey: Preflight, plan: Plan) -> int:
    """Tell which data sets of a plan cannot be used; returns the exit status."""
    for line in survey.failures(plan):
        click.echo(f"failed: {line}", err=True)
    return int(bool(survey.broken))


def _tell(queue: JobQueue, called: dict[str, str], through: bool, done: int, count: int, what: str) -> int:
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
    return plan_selection(selection, nothing, (plain,), [content(source) for source in selection.sources])


def _galleries(part: dict[str, Selection], plan: Plan, store: Store) -> dict[str, bytes]:
    """Return the pictures of each finished noise, of its first data set and seed, by the noise's name."""
    found: dict[str, bytes] = {}
    for job in plan.protects:
        name = noise_name(part[job.key], job)
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
        recorded = read_results(path)
        merged, conflicts = merge_results(recorded, fresh)
        if not merged:
            return
        for name in (path.name, *GENERATED_FILES):
            remove_scratch_files(folder / name)
        if merged != recorded:
            write_results(path, merged)
        write_gallery(folder, galleries)
        boards = rebuild_board(folder, suite, merged)
    for board in boards:
        print_table(console, board.title, *noise_table(board, brief=True), numbers=True)
        print_table(console, "breakers", *breaker_table(board), numbers=True)
    for line in conflicts:
        click.echo(f"note: other numbers on record: {line}", err=True)
    console.print(f"Board: {folder / 'README.md'}", soft_wrap=True)
