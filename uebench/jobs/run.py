"""Runs one job once: looks for what is finished, holds its lock, and calls the function for its kind."""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from uebench.components.errors import StoreError
from uebench.jobs.cell import run_cell, run_choice, run_trial
from uebench.jobs.checkpoint import ReportStep
from uebench.jobs.environment import made_with
from uebench.jobs.protect import Artefact, protect_images, train_victim
from uebench.jobs.workspace import Workspace
from uebench.planning.plan import Cell, Job, Protect, Trial, Victim
from uebench.storage.job_log import Started, log_event
from uebench.storage.result import Result, parse_result
from uebench.storage.store import Busy, Store


def artefacts(place: Workspace, report: ReportStep) -> Artefact:
    """Return the function that gives the files of a job to another that needs them, doing it first where it must."""
    return partial(_artefact, place=place, report=report)


def _artefact(job: Job, place: Workspace, report: ReportStep) -> dict[str, Path]:
    """Return the files of a job that others need, doing it first where it is not done.

    Raises `store.Busy` where another process is at it.
    """
    files = place.store.find(job.key)
    if files is None:
        with place.store.lock(job.key):
            files = place.store.find(job.key)
            if files is None:
                run_job(job, place, report)
                files = place.store.find(job.key)
    assert files
    return files


def find_finished(job: Job, store: Store, recorded: Mapping[str, Result] | None = None) -> Result | bool:
    """Return a finished cell's record, or whether another job is finished; a damaged one is not.

    Where the numbers are those that a board has on record, by key, the record returned is the board's.
    """
    if not isinstance(job, Cell):
        return store.find(job.key, thorough=False) is not None  # whoever uses it makes sure
    content = store.read(job.key, "result.json")
    if content is None:
        return False
    old = (recorded or {}).get(job.key)
    if old and old.told_by(content):
        return old
    return parse_result(content, place=f"stored result {job.key}")


def plugin_versions(job: Job, store: Store) -> Mapping[str, str]:
    """Return the versions of the plug-ins that a finished job was done with; none of one that is not finished."""
    files = store.find(job.key, thorough=False)
    if files is None:
        return {}
    facts = json.loads(files["result.json" if isinstance(job, Cell) else "facts.json"].read_bytes())
    versions: Mapping[str, str] = facts.get("made_with", {}).get("plugins", {})  # old victims have none
    return versions


def run_job(job: Job, place: Workspace, report: ReportStep) -> None:
    """Do a job and store what comes of it, with a log."""
    told = {name: value for name, value in made_with(place.device).items() if name in Started.__struct_fields__}
    log_event(place.store, job.key, "started", **told)
    artefact = artefacts(place, report)
    try:
        if isinstance(job, Victim):
            train_victim(job, place, report)
        elif isinstance(job, Protect):
            protect_images(job, place, report, artefact)
        elif isinstance(job, Trial):
            run_trial(job, place, report, artefact)
        elif job.trials:
            run_choice(job, place, artefact)
        else:
            run_cell(job, place, report, artefact)
    except Busy:  # what it needs; it is put off
        raise
    except Exception as error:
        with suppress(StoreError):  # which may be what failed
            log_event(place.store, job.key, "failed", error=type(error).__name__)
        raise
    if isinstance(
        job, Victim | Protect
    ):  # exceptions that libraries caught hold frames, and so what no breaker may find
        gc.collect()


def run_job_once(job: Job, place: Workspace, report: ReportStep) -> Result | bool:
    """Do a job unless it is finished; raises `store.Busy` where another process is at it."""
    with place.store.lock(job.key):
        done = find_finished(job, place.store)
        if not done:
            run_job(job, place, report)
            done = find_finished(job, place.store)
    return done
