"""`uebench run`: plans a suite or a part of it, runs what is not finished, and ranks the results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from uebench.board.agreement import Agreement
from uebench.board.publish import GENERATED_FILES, label_result, rebuild_own_board, write_gallery
from uebench.board.ranking import Board, rank_results
from uebench.board.records import SuiteRecords, compare_records, read_records
from uebench.components.interfaces import Breaker, Noise, Source
from uebench.components.registry import registry
from uebench.executors.messages import OpenListener, RunOutline
from uebench.executors.preflight import BrokenDataset, Preflight
from uebench.executors.scheduler import JobQueue
from uebench.executors.settings import ExecutionSettings
from uebench.planning.job_names import name_jobs, noise_name
from uebench.planning.plan import Job, Plan, plan_cells, plan_selection
from uebench.planning.selection import Selection, select_components
from uebench.planning.suite import ShareKind, Suite
from uebench.planning.suite_file import read_suite
from uebench.storage.atomic_files import remove_scratch_files
from uebench.storage.result import Result
from uebench.storage.results_file import RESULTS_FILE, read_results, write_results
from uebench.storage.store import Store


@dataclass(frozen=True)
class RunRequest:
    """A suite, by name or path, and specifications that replace its lists; an empty list leaves the suite's."""

    suite: str
    noises: Sequence[str] = ()
    breakers: Sequence[str] = ()
    targets: Sequence[str] = ()
    datasets: Sequence[str] = ()
    protected: Sequence[float] = ()
    kind: ShareKind | None = None
    recipe: str | None = None
    seeds: Sequence[int] = ()


@dataclass(frozen=True)
class PreparedRun:
    """The plan of a run, before any job of it started.

    `records` are the user's own and the published results of the suite.
    `plan` has the cells whose data sets are usable, `unfinished` those of its jobs that are to be run, `requested` the
    number of all cells. `selections` and `names` are by the key of a job. `added_breakers` join the requested ones
    because every rank needs them.
    """

    suite: Suite
    records: SuiteRecords
    plan: Plan
    requested: int
    selections: Mapping[str, Selection]
    names: Mapping[str, str]
    broken: Sequence[BrokenDataset]
    added_breakers: Sequence[str]
    unfinished: Sequence[Job] = ()


@dataclass(frozen=True)
class RunReport:
    """The outcome of a run: its results, what failed, and the boards that follow.

    `own_boards` rank the user's own record alone, `boards` both records. `failures` has the reason by the name of a
    job. `agreements` compares the cells of this run that are published.
    """

    prepared: PreparedRun
    results: Sequence[Result]
    failures: Mapping[str, str]
    completed: bool
    own_boards: Sequence[Board] = ()
    boards: Sequence[Board] = ()
    agreements: Sequence[Agreement] = ()

    @property
    def status(self) -> int:
        """The exit status: 0 complete, 1 with missing cells, 130 interrupted."""
        if not self.completed:
            return 130
        return int(len(self.results) < self.prepared.requested)


def prepare_run(request: RunRequest, settings: ExecutionSettings, boards: Path, *, load: bool) -> PreparedRun:
    """Plan a run; raises `UserError` for a request that cannot be planned, and for a device that is not available.

    With `load`, the data sets of unfinished jobs are read into the store and their networks built, so that mistakes
    show before work begins. Without it the plan has the cells of broken data sets, too.
    """
    suite = read_suite(request.suite)
    selections = select_components(
        suite,
        datasets=request.datasets,
        noises=request.noises,
        breakers=request.breakers,
        targets=request.targets,
        protected=request.protected,
        kind=request.kind,
        recipe=request.recipe,
        seeds=request.seeds,
        ranked=True,
    )
    settings.check()
    records = read_records(suite.name, settings.store, boards)  # a damaged record is reported before any work
    store = settings.open_store()
    preflight = Preflight(store, settings.patience)
    plans = [plan_with_references(selection, preflight.fingerprint) for selection in selections]
    whole = plan_cells(cell for plan in plans for cell in plan.cells)
    plan = preflight.usable_plan(whole) if load else whole
    unfinished: list[Job] = []
    if load:
        store.prepare()
        unfinished = [job for job in plan.jobs if not store.holds(job.key)]
        preflight.load_datasets(unfinished)
        plan = preflight.usable_plan(whole)
        unfinished = [job for job in unfinished if job.source not in preflight.failures]
        keys = {job.key for job in unfinished}
        preflight.build_networks(cell for cell in plan.cells if cell.key in keys)
    by_key = {job.key: selection for selection, plan in zip(selections, plans, strict=True) for job in plan.jobs}
    requested_breakers = request.breakers or suite.required_breakers
    return PreparedRun(
        suite=suite,
        records=records,
        plan=plan,
        requested=len(whole.cells),
        selections=by_key,
        names=name_jobs(by_key, whole.jobs),
        broken=preflight.broken_datasets(whole),
        added_breakers=[
            text for text in suite.required_breakers if suite.required_run and text not in requested_breakers
        ],
        unfinished=unfinished,
    )


def run_suite(prepared: PreparedRun, settings: ExecutionSettings, open_listener: OpenListener) -> RunReport:
    """Run the unfinished jobs of a plan, add the results to the user's own record, and rank them."""
    store, plan, recorded = settings.open_store(), prepared.plan, prepared.records.own
    work = settings.work_left(prepared.unfinished)
    with open_listener(RunOutline(prepared.names, len(plan.cells), work)) as listener:
        queue = JobQueue(listener, recorded=recorded)
        completed = settings.execute(plan, queue)
    results = label_results(plan, prepared.selections, queue.results, recorded)
    failures = {prepared.names[key]: reason for key, reason in queue.failures.items()}
    records = _record(prepared, results, store)
    own_boards = rank_results(prepared.suite, records.own.values(), records.rulings)
    boards = rebuild_own_board(prepared.suite, records) if records.own else []
    agreements = compare_records(results, records.published)
    return RunReport(prepared, results, failures, completed, own_boards, boards, agreements)


def label_results(
    plan: Plan, selections: Mapping[str, Selection], results: Mapping[str, Result], recorded: Mapping[str, Result]
) -> list[Result]:
    """Return the results of a plan's cells with the names of a suite; one that is on record has them already."""
    return [
        result if result is recorded.get(cell.key) else label_result(selections[cell.key], cell, result)
        for cell in plan.cells
        if (result := results.get(cell.key))
    ]


def plan_with_references(selection: Selection, fingerprint: Callable[[Source], str]) -> Plan:
    """Return the plan of a selection, with the clean set and plain training as references."""
    nothing, plain = cast(Noise, registry().build("noise", "none")), cast(Breaker, registry().build("breaker", "none"))
    return plan_selection(selection, nothing, (plain,), [fingerprint(source) for source in selection.sources])


def _galleries(prepared: PreparedRun, store: Store) -> dict[str, bytes]:
    """Return the picture of each finished noise, from its first data set and seed, by the noise's name."""
    pictures: dict[str, bytes] = {}
    for job in prepared.plan.protects:
        name = noise_name(prepared.selections[job.key], job)
        files = store.find(job.key, thorough=False) if name not in pictures else None
        if files:
            pictures[name] = files["gallery.png"].read_bytes()
    return pictures


def _record(prepared: PreparedRun, new: Sequence[Result], store: Store) -> SuiteRecords:
    """Add results to the user's own record; returns both records."""
    folder = prepared.records.own_folder
    with store.lock(f"board-{prepared.suite.name}", wait=True):
        before = read_results(folder / RESULTS_FILE)
        own = {**before, **{result.key: result for result in new}}
        if not own:
            return prepared.records
        for name in (RESULTS_FILE, *GENERATED_FILES):
            remove_scratch_files(folder / name)
        if own != before:
            write_results(folder / RESULTS_FILE, own)
        write_gallery(folder, _galleries(prepared, store))
        return replace(prepared.records, own=own)
