"""Ten thousand cells: planned, found finished, ranked, and run again by the command."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import TINY
from tests.executors.test_local import Watcher
from uebench.board.publish import label_result, publish_board
from uebench.board.ranking import rank_results
from uebench.components.registry import registry
from uebench.executors.local import run_locally
from uebench.executors.scheduler import JobQueue, order_jobs, unfinished_jobs
from uebench.jobs.datasets import content_fingerprint
from uebench.planning.job_names import name_jobs
from uebench.planning.plan import Plan, plan_selection
from uebench.planning.selection import Selection, select_components
from uebench.planning.suite_file import read_suite
from uebench.storage.result import CurvePoint, Result
from uebench.storage.results_file import read_results, write_results
from uebench.storage.store import Store

CELLS = 10_000


NOISES = ["none", "em", "rem", "sem", "tap"]
BREAKERS = ["none", *(f"adv-linf:radius={radius}/255" for radius in range(1, 20))]
SEEDS = range(100)


def selection() -> Selection:
    (found,) = select_components(read_suite(str(TINY)), noises=NOISES, breakers=BREAKERS, seeds=SEEDS)
    return found


def references(content: str = "") -> Any:
    """Return what else a plan takes: the clean set, plain training, and the content of the data."""
    return registry().build("noise", "none"), (registry().build("breaker", "none"),), [content]


def planned(chosen: Selection, content: str = "") -> Plan:
    made = plan_selection(chosen, *references(content))
    assert len(made.cells) == CELLS
    return made


def result(cell: Any, accuracy: float) -> Result:
    return Result(
        key=cell.key,
        suite="tiny",
        dataset="digits",
        noise=cell.protect.noise.name,
        breaker="",
        target="smallcnn",
        parameters=cell.parameters,
        protected=1.0,
        kind="mixed",
        seed=cell.protect.seed,
        recipe="sgd",
        test_accuracy=accuracy,
        train_accuracy=1.0,
        best_test_accuracy=accuracy,
        curve=[CurvePoint(step, accuracy, 1.0) for step in range(1, 11)],
        noise_linf=0.1,
        noise_l2=1.0,
        psnr=20.0,
        ssim=0.9,
        noise_seconds=1.0,
        train_seconds=1.0,
        peak_bytes=None,
        flags=[],
        made_with={"device": "none"},
        finished="2026-01-01T00:00:00+00:00",
    )


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[Selection, Plan, Store]:
    """Return a plan of which everything is finished, as far as a store can tell."""
    chosen, store = selection(), Store(tmp_path_factory.mktemp("full"))
    made = planned(chosen, content_fingerprint(chosen.sources[0], store))
    draw = torch.Generator().manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)
        for job in (*made.victims, *made.protects):
            store.save(job.key, {"facts.json": b"{}", "gallery.png": b"", "released.safetensors": bytes(250_000)})
        for cell, accuracy in zip(made.cells, torch.rand(CELLS, generator=draw).tolist(), strict=True):
            labelled = label_result(chosen, cell, result(cell, accuracy))
            store.save(cell.key, {"result.json": labelled.line().encode()})
    return chosen, made, store


def test_plan(benchmark: Any) -> None:
    """With the names that people see, and the order in which jobs start."""
    chosen, store = selection(), Store(Path("nowhere"))

    def whole() -> None:
        fresh = replace(chosen, targets=[replace(one) for one in chosen.targets])
        made = planned(fresh)
        assert all(name_jobs(dict.fromkeys((job.key for job in made.jobs), fresh), made.jobs).values())
        assert len(order_jobs(made.jobs, store, torch.device("cpu"))) == len(made.jobs)

    benchmark.pedantic(whole, rounds=3)


def test_what_is_finished_is_found(benchmark: Any, full: tuple[Selection, Plan, Store]) -> None:
    _, made, store = full

    def scan() -> None:
        queue = JobQueue(Watcher())
        assert not unfinished_jobs(made, queue, store)
        assert len(queue.results) == CELLS

    benchmark.pedantic(scan, rounds=3)


def test_finished_run_again(benchmark: Any, full: tuple[Selection, Plan, Store], tmp_path: Path) -> None:
    """The whole command, from the start of Python to the tables."""
    _, _, store = full
    words = [sys.executable, "-m", "uebench.cli", "run", str(TINY), "--seed", ",".join(map(str, SEEDS))]
    words += [word for noise in NOISES for word in ("--noise", noise)]
    words += [word for breaker in BREAKERS for word in ("--breaker", breaker)]
    words += ["--store", str(store.root), "--boards", str(tmp_path)]
    run = partial(subprocess.run, words, check=True, stdout=subprocess.DEVNULL)
    benchmark.pedantic(run, rounds=3, warmup_rounds=1)  # the first has the record to write
    assert len(read_results(tmp_path / "tiny" / "results.jsonl")) == CELLS


def test_board(benchmark: Any, full: tuple[Selection, Plan, Store], tmp_path: Path) -> None:
    chosen, made, store = full
    queue = JobQueue(Watcher())
    unfinished_jobs(made, queue, store)

    def publish() -> None:
        write_results(tmp_path / "results.jsonl", queue.results)
        records = read_results(tmp_path / "results.jsonl")
        publish_board(tmp_path, chosen.suite, rank_results(chosen.suite, records.values()))

    benchmark.pedantic(publish, rounds=1)
    assert (tmp_path / "README.md").exists()


class Scale(Watcher):
    """A listener that notes how much memory the process has after each job."""

    def __init__(self) -> None:
        super().__init__()
        self.memory: list[int] = []

    def ended(self, job: Any, outcome: Any) -> None:
        super().ended(job, outcome)
        resident = Path("/proc/self/statm").read_text().split()[1]
        self.memory.append(int(resident) * os.sysconf("SC_PAGE_SIZE"))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc to read the process's memory from")
def test_memory_does_not_grow_with_the_number_of_cells(benchmark: Any, tmp_path: Path) -> None:
    """Of 240 cells in one process the last three quarters take no more than a hundredth of what the first took."""
    breakers = [f"adv-linf:radius={radius}/255,steps=1" for radius in range(1, 5)]
    (chosen,) = select_components(
        read_suite(str(TINY)), noises=["none", "em:steps=1"], breakers=breakers, seeds=range(24)
    )
    recipe = replace(chosen.recipe, steps=2, evaluations=1)
    made = plan_selection(replace(chosen, recipe=recipe), *references())
    watcher = Scale()
    run = partial(run_locally, device="cpu", workers=1, threads=1, every=60)
    benchmark.pedantic(lambda: run(made, JobQueue(watcher), tmp_path), rounds=1)
    assert len(made.cells) == 240
    quarter = watcher.memory[len(watcher.memory) // 4]
    benchmark.extra_info["growth, MB"] = (watcher.memory[-1] - quarter) / 1e6
    assert watcher.memory[-1] < 1.01 * quarter
