"""Runs one job once: finds out whether it is finished, holds its lock, and calls the function for its kind."""

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
from uebench.jobs.protect import protect_images, train_victim
from uebench.jobs.workspace import Workspace
from uebench.planning.plan import Cell, Job, Protect, Trial, Victim
from uebench.storage.job_log import Started, log_event
from uebench.storage.result import Result, parse_result
from uebench.storage.store import Busy, Store


def finish_job(job: Job, workspace: Workspace, report: ReportStep) -> dict[str, Path]:
    """Return the files of a job, after running it if it is not finished; raises `Busy` where its lock is held."""
    files = workspace.store.find(job.key)
    if files is None:
        with workspace.store.lock(job.key):
            files = workspace.store.find(job.key)
            if files is None:
                run_job(job, workspace, report)
                files = workspace.store.find(job.key)
    assert files
    return files


def find_finished(job: Job, store: Store, recorded: Mapping[str, Result] | None = None) -> Result | bool:
    """Return the result of a finished cell, or whether another job is finished; a damaged one is not.

    Where a board has the same numbers on record, by key, the result is the board's.
    """
    if not isinstance(job, Cell):
        return store.find(job.key, thorough=False) is not None  # its user checks the content
    content = store.read(job.key, "result.json")
    if content is None:
        return False
    recorded_result = (recorded or {}).get(job.key)
    if recorded_result and recorded_result.equals_stored(content):
        return recorded_result
    return parse_result(content, source=f"stored result {job.key}")


def plugin_versions(job: Job, store: Store) -> Mapping[str, str]:
    """Return the versions of the plug-ins that a finished job was made with; empty for an unfinished one."""
    files = store.find(job.key, thorough=False)
    if files is None:
        return {}
    facts = json.loads(files["result.json" if isinstance(job, Cell) else "facts.json"].read_bytes())
    versions: Mapping[str, str] = facts.get("made_with", {}).get("plugins", {})  # old victims lack them
    return versions


def run_job(job: Job, workspace: Workspace, report: ReportStep) -> None:
    """Run a job and store its outcome, with a log."""
    facts = {name: value for name, value in made_with(workspace.device).items() if name in Started.__struct_fields__}
    log_event(workspace.store, job.key, "started", **facts)
    find_files = partial(finish_job, workspace=workspace, report=report)
    try:
        if isinstance(job, Victim):
            train_victim(job, workspace, report)
        elif isinstance(job, Protect):
            protect_images(job, workspace, report, find_files)
        elif isinstance(job, Trial):
            run_trial(job, workspace, report, find_files)
        elif job.trials:
            run_choice(job, workspace, find_files)
        else:
            run_cell(job, workspace, report, find_files)
    except Busy:  # a job that this one needs is held; it is tried again later
        raise
    except Exception as error:
        with suppress(StoreError):  # the store itself may have failed
            log_event(workspace.store, job.key, "failed", error=type(error).__name__)
        raise
    if isinstance(job, Victim | Protect):
        gc.collect()  # exceptions that libraries caught hold frames, with data that no breaker may find


def run_job_once(job: Job, workspace: Workspace, report: ReportStep) -> Result | bool:
    """Run a job unless it is finished; raises `Busy` where another process holds its lock."""
    with workspace.store.lock(job.key):
        result = find_finished(job, workspace.store)
        if not result:
            run_job(job, workspace, report)
            result = find_finished(job, workspace.store)
    return result
