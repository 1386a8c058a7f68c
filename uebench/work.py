"""Runs one job once: looks for what is finished, holds its lock, and calls the function for its kind."""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from uebench import cells, log, protecting, result
from uebench.errors import StoreError
from uebench.journal import Report
from uebench.origin import made_with
from uebench.place import Place
from uebench.plan import Cell, Job, Protect, Trial, Victim
from uebench.protecting import Artefact
from uebench.result import Result
from uebench.store import Busy, Store


def artefacts(place: Place, report: Report) -> Artefact:
    """Return the function that gives the files of a job to another that needs them, doing it first where it must."""
    return partial(_artefact, place=place, report=report)


def _artefact(job: Job, place: Place, report: Report) -> dict[str, Path]:
    """Return the files of a job that others need, doing it first where it is not done.

    Raises `store.Busy` where another process is at it.
    """
    files = place.store.find(job.key)
    if files is None:
        with place.store.lock(job.key):
            files = place.store.find(job.key)
            if files is None:
                do(job, place, report)
                files = place.store.find(job.key)
    assert files
    return files


def finished(job: Job, store: Store, recorded: Mapping[str, Result] | None = None) -> Result | bool:
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
    return result.parse(content, place=f"stored result {job.key}")


def made_by(job: Job, store: Store) -> Mapping[str, str]:
    """Return the versions of the plug-ins that a finished job was done with; none of one that is not finished."""
    files = store.find(job.key, thorough=False)
    if files is None:
        return {}
    facts = json.loads(files["result.json" if isinstance(job, Cell) else "facts.json"].read_bytes())
    versions: Mapping[str, str] = facts.get("made_with", {}).get("plugins", {})  # old victims have none
    return versions


def do(job: Job, place: Place, report: Report) -> None:
    """Do a job and store what comes of it, with a log."""
    told = {name: value for name, value in made_with(place.device).items() if name in log.Started.__struct_fields__}
    log.note(place.store, job.key, "started", **told)
    artefact = artefacts(place, report)
    try:
        if isinstance(job, Victim):
            protecting.teach(job, place, report)
        elif isinstance(job, Protect):
            protecting.protect(job, place, report, artefact)
        elif isinstance(job, Trial):
            cells.try_out(job, place, report, artefact)
        elif job.trials:
            cells.choose(job, place, artefact)
        else:
            cells.run(job, place, report, artefact)
    except Busy:  # what it needs; it is put off
        raise
    except Exception as error:
        with suppress(StoreError):  # which may be what failed
            log.note(place.store, job.key, "failed", error=type(error).__name__)
        raise
    if isinstance(
        job, Victim | Protect
    ):  # exceptions that libraries caught hold frames, and so what no breaker may find
        gc.collect()


def perform(job: Job, place: Place, report: Report) -> Result | bool:
    """Do a job unless it is finished; raises `store.Busy` where another process is at it."""
    with place.store.lock(job.key):
        done = finished(job, place.store)
        if not done:
            do(job, place, report)
            done = finished(job, place.store)
    return done
