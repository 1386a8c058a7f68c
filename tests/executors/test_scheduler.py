"""In which order the jobs of a run start, and what it takes for one to start."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.executors.test_local import Watcher, planned
from uebench.components.registry import registry
from uebench.components.spec import component_label
from uebench.executors.messages import Done, Failed
from uebench.executors.scheduler import JobQueue, order_jobs, unfinished_jobs
from uebench.jobs.forecast import record_time
from uebench.planning.plan import Cell, Job, Plan, Protect, Trial, Victim
from uebench.storage.store import Store

CPU = torch.device("cpu")
BREAKERS = ["adv-linf:steps=1", "adv-linf:steps=7", "best-of:of=grayscale/jpeg"]


def made(*noises: str) -> Plan:
    """Return a plan of some noises under no breaker, two attacks of different length, and one that chooses."""
    built = [registry().build("noise", text) for text in noises]
    return planned(built, [registry().build("breaker", text) for text in BREAKERS])  # type: ignore[arg-type]


def told(job: Job) -> str:
    """Return what a job is, in a word or two."""
    if isinstance(job, Protect):
        return f"noise {component_label(job.noise)}"
    if isinstance(job, Victim):
        return "victim"
    return "trial" if isinstance(job, Trial) else "+".join(component_label(one) for one in job.chain)


def test_the_longest_way_to_the_end_starts_first_and_a_noise_leads_its_cells(tmp_path: Path) -> None:
    jobs = order_jobs(reversed(made("em:steps=5", "em:steps=900").jobs), Store(tmp_path), CPU)
    cells = [BREAKERS[1], BREAKERS[0], *sorted(["trial", "trial", "none"]), BREAKERS[2]]
    names = [told(job) for job in jobs]
    for place in (3, 10, 17):
        names[place : place + 3] = sorted(names[place : place + 3])  # as long as one another
    assert names == ["noise em:steps=900", *cells, "noise em:steps=5", *cells, "noise none", *cells]


def test_times_that_were_measured_decide_where_every_job_has_one(tmp_path: Path) -> None:
    plan, store = made("sc", "em:steps=900"), Store(tmp_path)
    store.prepare()

    def leading() -> list[str]:
        return [told(job) for job in order_jobs(plan.jobs, store, CPU) if isinstance(job, Protect)]

    assert leading()[0] == "noise em:steps=900", "no passes are known of sc"
    for one in plan.protects:
        record_time(one, store, CPU, 1e6 if one.noise.name == "sc" else 1.0)
    assert leading()[0] == "noise em:steps=900", "times and passes do not compare"
    record_time(plan.cells[0], store, CPU, 1.0)
    assert leading()[0] == "noise sc"


@pytest.mark.parametrize("noises", [["tap", "sc", "em"], ["none"], ["rem", "tap"]])
def test_every_job_stands_once_and_behind_those_it_needs(noises: list[str], tmp_path: Path) -> None:
    plan = made(*noises)
    for jobs in (plan.jobs, list(reversed(list(plan.jobs)))):
        found = order_jobs(jobs, Store(tmp_path), CPU)
        places = {job.key: place for place, job in enumerate(found)}
        assert sorted(places) == sorted(job.key for job in plan.jobs)
        assert len(found) == len(places)
        assert all(places[need.key] < places[job.key] for job in found for need in job.needs)


def test_finished_jobs_are_found_and_a_job_waits_for_those_it_needs(tmp_path: Path) -> None:
    plan, store, watcher = planned([registry().build("noise", "tap")], []), Store(tmp_path), Watcher()  # type: ignore[list-item]
    (victim,) = plan.victims
    store.save(victim.key, {"facts.json": b"{}"})
    left = unfinished_jobs(plan, JobQueue(watcher), store)
    assert {job.key for job in left} == {job.key for job in plan.jobs} - {victim.key}
    queue = JobQueue(watcher, left)
    begun = [queue.next_job() for _ in left]
    assert [told(job) for job in begun if job] == ["noise none", "noise tap"], "no cell before its noise"
    queue.close(plan.protects[0], Done(True))
    job = queue.next_job()
    assert isinstance(job, Cell)
    assert job.protect == plan.protects[0]
    queue.close(plan.protects[1], Failed("no reason"))
    assert queue.next_job() is None
    assert set(queue.failures.values()) == {"no reason", "a job that it needs failed: no reason"}
