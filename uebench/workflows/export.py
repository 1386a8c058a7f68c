"""`uebench export`: makes one noise for one data set and writes the protected set into a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from uebench.components.errors import UserError
from uebench.executors.messages import OpenListener, RunOutline
from uebench.executors.scheduler import JobQueue
from uebench.executors.settings import ExecutionSettings
from uebench.jobs.datasets import content_fingerprint, image_names
from uebench.jobs.export import ArrayFormat, check_export_folder, write_export
from uebench.jobs.run import find_finished
from uebench.planning.job_names import job_name
from uebench.planning.plan import Plan, plan_protect
from uebench.planning.selection import select_components
from uebench.planning.suite import Suite
from uebench.planning.suite_file import read_suite


@dataclass(frozen=True)
class ExportRequest:
    """A noise, a data set and a seed by specification; with a suite its settings apply, else the noise's own."""

    suite: str | None
    noises: Sequence[str]
    datasets: Sequence[str]
    seeds: Sequence[int] = ()
    array: ArrayFormat = "safetensors"


@dataclass(frozen=True)
class ExportReport:
    """The outcome of an export: the number of protected images, the files left out, and what failed.

    `failures` has the reason by the name of a job. `done` of `jobs` jobs are finished.
    """

    folder: Path
    jobs: int
    done: int
    completed: bool
    failures: Mapping[str, str]
    images: int = 0
    skipped: Sequence[str] = field(default_factory=list)

    @property
    def status(self) -> int:
        """The exit status: 0 complete, 1 where something was left out, 130 interrupted."""
        if not self.completed:
            return 130
        return int(self.done < self.jobs or bool(self.skipped))


def export_protected(
    request: ExportRequest, settings: ExecutionSettings, folder: Path, open_listener: OpenListener
) -> ExportReport:
    """Make the noise unless it is finished, and write the protected set; raises `UserError`."""
    check_export_folder(folder)
    if folder.resolve() in (settings.store.resolve(), *settings.store.resolve().parents):
        raise UserError(f"the store {settings.store} lies in {folder}; export into another folder")
    suite = read_suite(request.suite) if request.suite else Suite("", "")
    selections = select_components(suite, noises=request.noises, datasets=request.datasets, seeds=request.seeds)
    selection, store = selections[0], settings.open_store()
    for kind, values in (("noise", selection.noises), ("dataset", selection.sources), ("seed", selection.seeds)):
        if len(values) != 1 or len(selections) != 1:
            raise UserError(f"an export is of one {kind}, not {len(values)}; say which with --{kind}")
    (source,), (noise,), (seed,) = selection.sources, selection.noises, selection.seeds
    job = plan_protect(source, content_fingerprint(source, store), noise, selection.recipe, seed)
    plan = Plan(job.victims, [job], [])
    store.prepare()
    names = {job.key: job_name(selection, job) for job in plan.jobs}
    with open_listener(RunOutline(names)) as listener:
        queue = JobQueue(listener)
        completed = settings.execute(plan, queue)
    done = sum(bool(find_finished(job, store)) for job in plan.jobs)
    failures = {names[key]: reason for key, reason in queue.failures.items()}
    if not completed or done < len(plan.jobs):
        return ExportReport(folder, len(plan.jobs), done, completed, failures)
    try:
        data = write_export(job, store, folder, request.array)
    except KeyboardInterrupt:
        return ExportReport(folder, len(plan.jobs), done, False, failures)
    return ExportReport(folder, len(plan.jobs), done, True, failures, len(image_names(data)), data.skipped)
