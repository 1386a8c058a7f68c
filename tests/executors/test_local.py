"""Where jobs run: what a dying process, a failing job or a busy neighbour does to the rest of a run."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.conftest import TINY
from uebench import Breaker, Context, Noise, UserError
from uebench.components.registry import registry
from uebench.executors.local import choose_devices, run_locally
from uebench.executors.messages import Failed, Held, StepReport
from uebench.executors.scheduler import JobQueue, attempt_job
from uebench.executors.settings import ExecutionSettings
from uebench.jobs.workspace import Workspace
from uebench.planning.plan import Job, Plan, plan_selection
from uebench.planning.selection import Selection, select_components
from uebench.planning.suite_file import read_suite
from uebench.storage.result import Result
from uebench.storage.store import Store


class Dies(Breaker):
    """Kill the process it runs in."""

    name = "dies"

    def filter(self, images: Tensor, labels: Tensor) -> Tensor:
        os.kill(os.getpid(), signal.SIGKILL)
        return images


class Bug(Noise):
    """Fail as code fails."""

    name = "bug"

    def make(self, images: Tensor, labels: Tensor, context: Context) -> Tensor:
        return {}["key"]


class Watcher:
    """A listener that takes notes."""

    def __init__(self) -> None:
        self.begun: list[Job] = []
        self.reasons: list[tuple[str, str]] = []
        self.lines: list[str] = []
        self.counts: list[tuple[int, int]] = []

    def started(self, job: Job) -> None:
        self.begun.append(job)

    def progressed(self, job: Job, progress: StepReport) -> None:
        self.counts.append((progress.step, progress.count))

    def finished(self, job: Job, result: Result | bool) -> None:
        assert result

    def failed(self, job: Job, failure: Failed) -> None:
        self.reasons.append((failure.reason, failure.trace))

    def note(self, line: str) -> None:
        self.lines.append(line)


class Destroyed:
    """Press Ctrl-C while a destructor runs, where Python shows a `KeyboardInterrupt` and drops it."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


class Stopper(Watcher):
    """Stop the run once, in a destructor, when the first job starts."""

    def started(self, job: Job) -> None:
        super().started(job)
        if len(self.begun) == 1:
            Destroyed()


def planned(noises: list[Noise], breakers: list[Breaker]) -> Plan:
    (selection,) = select_components(read_suite(str(TINY)))
    nothing, plain = registry().build("noise", "none"), registry().build("breaker", "none")
    chosen = Selection(
        selection.suite,
        selection.sources,
        noises,
        [(one,) for one in breakers],
        selection.targets,
        selection.recipe,
        [0],
    )
    return plan_selection(chosen, nothing, (plain,), [""])  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bug_shows_its_trace_and_fails_its_cells_only(tmp_path: Path, workers: int) -> None:
    watcher = Watcher()
    queue = JobQueue(watcher)
    run_locally(planned([Bug()], []), queue, tmp_path, device="cpu", workers=workers, threads=1, every=60)
    assert [result.parameters["noise"] for result in queue.results.values()] == ["none@1"]
    ((reason, trace),) = watcher.reasons
    assert reason == "KeyError: 'key'"
    assert 'return {}["key"]' in trace
    assert sorted(queue.failures.values()) == ["KeyError: 'key'", "a job that it needs failed: KeyError: 'key'"]
    assert watcher.counts[-1][0] == watcher.counts[-1][1]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_in_a_destructor_still_stops_the_run(tmp_path: Path, workers: int) -> None:
    outside = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets its background jobs ignore it
    before, watcher = signal.getsignal(signal.SIGINT), Stopper()
    queue = JobQueue(watcher)
    settings = ExecutionSettings(tmp_path, "cpu", workers)
    try:
        assert not settings.execute(planned([], []), queue)
        assert not queue.results
        assert len(watcher.begun) == 1
        assert signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, outside)


def test_a_process_that_dies_fails_its_cell_and_is_replaced(tmp_path: Path) -> None:
    watcher = Watcher()
    queue = JobQueue(watcher)
    both = [Dies(), registry().build("breaker", "adv-linf:steps=1")]
    run_locally(planned([], both), queue, tmp_path, device="cpu", workers=2, threads=1, every=60)  # type: ignore[arg-type]
    names = {result.parameters["breaker"].partition("@")[0] for result in queue.results.values()}
    assert names == {"none", "adv-linf"}
    assert watcher.reasons == [("its process died (exit code -9); out of memory?", "")]


def test_a_job_held_by_another_process_is_put_off_and_said(tmp_path: Path) -> None:
    made = planned([], [])
    (cell,) = made.cells
    watcher = Watcher()
    queue = JobQueue(watcher, [cell])
    with Store(tmp_path).lock(cell.key):
        job = queue.next_job()
        assert job
        queue.close(job, attempt_job(job, Workspace(Store(tmp_path), torch.device("cpu")), print))
    assert queue.jobs == [cell]
    assert watcher.lines == ["another process is at work on a job of this run; waiting for it"]
    assert queue.next_job() is None, "not before a moment has passed"


def test_a_job_is_put_off_whose_need_another_process_is_at(tmp_path: Path) -> None:
    """It would be silent for as long as that takes, and be ended for it."""
    (cell,) = planned([], []).cells
    place = Workspace(Store(tmp_path), torch.device("cpu"))
    with Store(tmp_path).lock(cell.protect.key):
        assert attempt_job(cell, place, print) == Held(cell.protect.key)
    assert "failed" not in "".join(path.read_text() for path in (tmp_path / "half").glob("*.log"))


def test_that_a_job_waits_for_another_of_the_same_run_is_not_said(tmp_path: Path) -> None:
    (cell,) = planned([], []).cells
    watcher, place = Watcher(), Workspace(Store(tmp_path), torch.device("cpu"))
    queue = JobQueue(watcher, [cell.protect, cell])
    assert queue.next_job() == cell.protect
    with place.store.lock(cell.protect.key):
        queue.close(cell, attempt_job(cell, place, print))
    assert not watcher.lines


def test_devices_are_those_that_are_there() -> None:
    assert choose_devices("cpu") == ["cpu"]
    assert choose_devices()
    with pytest.raises(UserError, match="no device 'cuda:99' here"):
        choose_devices("cuda:99")
