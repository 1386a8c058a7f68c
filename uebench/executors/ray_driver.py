"""Runs jobs on a Ray cluster: a task a job, ordered by Ray after what it needs, and done again where a node is lost."""

from __future__ import annotations

import logging
import math
import os
import pickle
import secrets
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from uebench.components.errors import UserError
from uebench.executors.local import count_cores
from uebench.executors.ray_reports import Reports
from uebench.executors.scheduler import PAUSE, JobQueue, order_jobs, unfinished_jobs
from uebench.executors.worker_pool import WorkerSettings, silence_message
from uebench.planning.plan import Job, Plan
from uebench.storage.atomic_files import write_atomically
from uebench.storage.store import Store

RETRIES = 3
"""How often a job is done again whose process or node was lost."""
LOCAL_ADDRESS = "local"
"""Ray's address of a cluster to be started on this machine."""
ANSWER_SECONDS = 300.0
"""Seconds that a node may take to answer: it has to load torch."""


def import_ray() -> Any:
    """Return Ray; raises `UserError` where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_task_oom_retries", str(RETRIES))  # Ray's own number has no end
    try:
        import ray
    except ImportError:
        raise UserError('--executor ray needs Ray: pip install "uebench[ray]"') from None
    return ray


def check_ray(device: str | None) -> None:
    """Raise `UserError` where Ray is not installed, or for a device that is Ray's to choose."""
    import_ray()
    if device not in (None, "cpu"):
        raise UserError(f"with --executor ray, Ray chooses the GPU: --device is cpu or left out, not {device!r}")


@contextmanager
def _connected(ray: Any, where: str, cpus: int) -> Iterator[None]:
    """Connect to a cluster, or start one on this machine, unless the caller has done so."""
    if ray.is_initialized():
        yield
        return
    own = {"num_cpus": cpus, "include_dashboard": False} if where == LOCAL_ADDRESS else {}
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(where, log_to_driver=False, logging_level=logging.ERROR, **own)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"no Ray cluster at {where}: {' '.join(str(error).split())}") from None
    finally:
        signal.signal(signal.SIGTERM, before)  # which Ray takes for itself
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _token(root: Path) -> Iterator[tuple[str, bytes]]:
    """Lay a file into the store for as long as a run lasts."""
    name, content = f"ray-{secrets.token_hex(8)}", secrets.token_bytes(16)
    write_atomically(root / name, content)
    try:
        yield name, content
    finally:
        (root / name).unlink(missing_ok=True)


def _on(ray: Any, node: str) -> Any:
    return ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)


def _ask(ray: Any, site: Any, nodes: Sequence[Mapping[str, Any]]) -> None:
    """Raise `UserError` that says which nodes cannot take part, and why; one that is lost by then is no obstacle."""
    from uebench.executors.ray_worker import find_obstacles

    ask = ray.remote(num_cpus=0, max_retries=0)(find_obstacles)
    answers = [ask.options(scheduling_strategy=_on(ray, node["NodeID"])).remote(site) for node in nodes]
    wrong, lost = dict[str, list[str]](), 0
    for node, answer in zip(nodes, answers, strict=True):
        try:
            found = ray.get(answer, timeout=ANSWER_SECONDS)
        except ray.exceptions.RayError as error:
            if not any(entry["Alive"] for entry in ray.nodes() if entry["NodeID"] == node["NodeID"]):
                lost += 1
                continue
            found = [f"cannot be asked: {str(error).strip().splitlines()[-1]}"]
        for reason in found:
            wrong.setdefault(reason, []).append(node["NodeName"])
    if wrong:
        lines = [f"node{'s' * (len(names) > 1)} {', '.join(names)}: {reason}" for reason, names in wrong.items()]
        raise UserError("; ".join(lines))
    if lost == len(nodes):
        raise UserError("every node of the cluster was lost")


def resources_per_job(
    nodes: Sequence[Mapping[str, Any]], threads: int, device: str | None, workers: int | None
) -> tuple[dict[str, float], list[Mapping[str, Any]]]:
    """Return what a job takes of a node, and the nodes that have it; raises `UserError` where none has.

    With GPUs a job takes one of `workers` shares of one, and as many CPUs as it has threads; else the CPUs alone.
    """
    gpus = device is None and any(node["Resources"].get("GPU") for node in nodes)
    taken = {"CPU": float(threads)}
    if gpus:
        taken["GPU"] = math.floor(1e4 / (workers or 1)) / 1e4  # Ray counts no finer
    fit = [node for node in nodes if all(node["Resources"].get(name, 0) >= taken[name] for name in taken)]
    if not fit:
        raise UserError(f"no node of the cluster has {threads} CPUs (--threads){' and a GPU' * gpus}")
    return taken, fit


def run_on_ray(
    plan: Plan, queue: JobQueue, terms: WorkerSettings, address: str | None, device: str | None, workers: int | None
) -> None:
    """Run what a plan still lacks on a Ray cluster; results and failures are in the queue, also if interrupted.

    Raises `UserError` where the cluster or one of its nodes is not fit for that.
    """
    store = Store(terms.root, queue.listener.said)
    left = unfinished_jobs(plan, queue, store)
    if not left:
        return
    queue.fill(order_jobs(left, store, torch.device("cpu")))
    ray, where = import_ray(), address or os.environ.get("RAY_ADDRESS") or LOCAL_ADDRESS
    from uebench.executors.ray_worker import RayNodeSpec, hash_source, run_ray_job  # which imports it

    crew = workers or max(1, count_cores() // terms.threads)
    with _connected(ray, where, crew * terms.threads), _token(terms.root) as (token, content):
        taken, nodes = resources_per_job(
            [node for node in ray.nodes() if node["Alive"]], terms.threads, device, workers
        )
        gpu = taken.get("GPU", 0.0)
        if workers and not gpu and where != LOCAL_ADDRESS:
            raise UserError("--workers divides the GPUs of a cluster; on its processors a job takes --threads CPUs")
        site = ray.put(RayNodeSpec(terms, "cuda:0" if gpu else "cpu", token, content, hash_source()))
        _ask(ray, site, nodes)
        reports = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Reports)
        reports = reports.options(scheduling_strategy=_on(ray, ray.get_runtime_context().get_node_id())).remote()
        ray.get(reports.take.remote())  # it is there before anybody tells it something
        do = ray.remote(num_cpus=taken["CPU"], num_gpus=gpu, max_retries=RETRIES)(run_ray_job)
        refs: dict[str, Any] = {}
        for job in queue.jobs:  # each stands behind those it needs
            needs = [refs[need.key] for need in job.needs if need.key in refs]
            refs[job.key] = do.remote(site, reports, pickle.dumps(job), job.key, *needs)
        _follow(ray, queue, refs, reports, terms)


def _follow(ray: Any, queue: JobQueue, refs: Mapping[str, Any], reports: Any, terms: WorkerSettings) -> None:
    """Keep the queue up with the tasks, until all have ended."""
    jobs = {job.key: job for job in queue.jobs}
    waiting, begun = {ref: jobs[key] for key, ref in refs.items()}, set[str]()

    def hear(job: Job, kind: str, *content: Any) -> None:
        if kind == "begun" and job.key in begun:
            names = {node["NodeID"]: node["NodeName"] for node in ray.nodes()}
            queue.listener.said(f"a process or node was lost; its job goes on at node {names.get(content[0], '?')}")
        elif kind == "begun":
            begun.add(job.key)
            queue.begun(job)
        elif kind == "step":
            queue.listener.stepped(job, *content)
        elif kind == "said":
            queue.listener.said(*content)
        elif kind == "busy":
            queue.waits(job, *content)
        else:
            del waiting[refs[job.key]]
            ray.cancel(refs[job.key], force=True)
            queue.close(job, "failed", silence_message(terms.patience or 0), "")

    def close(job: Job, ref: Any) -> None:
        try:
            ended = ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            ended = "failed", str(error).strip().splitlines()[-1], str(error)
        except ray.exceptions.RayError:
            ended = "failed", f"its process or node was lost {RETRIES + 1} times; out of memory?", ""
        if job.key in queue.failures:  # with one that it needs
            return
        if job.key not in begun:
            hear(job, "begun")
        queue.close(job, *ended)

    try:
        while waiting:
            ready, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=PAUSE / 2)
            for key, *report in ray.get(reports.take.remote()):
                if refs[key] in waiting:
                    hear(jobs[key], *report)
            for ref in ready:
                if ref in waiting:
                    close(waiting.pop(ref), ref)
    finally:
        for ref in waiting:
            ray.cancel(ref, force=True)
