"""Runs jobs on a Ray cluster: one task per job; Ray starts it after the jobs it needs, and again after a lost node."""

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
from uebench.executors.messages import Begun, Failed, Held, Message, Note, Silent, Skipped, StepReport, silence_message
from uebench.executors.ray_reports import Reports
from uebench.executors.scheduler import PAUSE, JobQueue, order_jobs, unfinished_jobs
from uebench.executors.worker_pool import WorkerSettings
from uebench.planning.plan import Job, Plan
from uebench.storage.atomic_files import write_atomically
from uebench.storage.store import Store

RETRIES = 3
"""How often a job is started again after its process or node was lost."""
LOCAL_ADDRESS = "local"
"""Ray's address for a cluster that it starts on this machine."""
ANSWER_SECONDS = 300.0
"""Seconds that a node may take to answer, as it has to load torch."""


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
    """Raise `UserError` where Ray is not installed, or for a named GPU, as Ray chooses the GPU."""
    import_ray()
    if device not in (None, "cpu"):
        raise UserError(f"with --executor ray, Ray chooses the GPU: --device is cpu or left out, not {device!r}")


@contextmanager
def _connect(ray: Any, address: str, cpus: int) -> Iterator[None]:
    """Connect to a cluster, or start one on this machine, unless this process is connected already."""
    if ray.is_initialized():
        yield
        return
    own = {"num_cpus": cpus, "include_dashboard": False} if address == LOCAL_ADDRESS else {}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"no Ray cluster at {address}: {' '.join(str(error).split())}") from None
    finally:
        signal.signal(signal.SIGTERM, handler)  # Ray sets its own
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _write_token(root: Path) -> Iterator[tuple[str, bytes]]:
    """Keep a file in the store while a run lasts, by which nodes recognise the store."""
    name, content = f"ray-{secrets.token_hex(8)}", secrets.token_bytes(16)
    write_atomically(root / name, content)
    try:
        yield name, content
    finally:
        (root / name).unlink(missing_ok=True)


def _node_affinity(ray: Any, node: str) -> Any:
    return ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)


def _check_nodes(ray: Any, spec: Any, nodes: Sequence[Mapping[str, Any]]) -> None:
    """Raise `UserError` that names the nodes that cannot take part, and why; nodes lost meanwhile do not count."""
    from uebench.executors.ray_worker import find_obstacles

    task = ray.remote(num_cpus=0, max_retries=0)(find_obstacles)
    answers = [task.options(scheduling_strategy=_node_affinity(ray, node["NodeID"])).remote(spec) for node in nodes]
    nodes_by_reason, lost = dict[str, list[str]](), 0
    for node, answer in zip(nodes, answers, strict=True):
        try:
            obstacles = ray.get(answer, timeout=ANSWER_SECONDS)
        except ray.exceptions.RayError as error:
            if not any(entry["Alive"] for entry in ray.nodes() if entry["NodeID"] == node["NodeID"]):
                lost += 1
                continue
            obstacles = [f"gives no answer: {str(error).strip().splitlines()[-1]}"]
        for reason in obstacles:
            nodes_by_reason.setdefault(reason, []).append(node["NodeName"])
    if nodes_by_reason:
        lines = [
            f"node{'s' * (len(names) > 1)} {', '.join(names)}: {reason}" for reason, names in nodes_by_reason.items()
        ]
        raise UserError("; ".join(lines))
    if lost == len(nodes):
        raise UserError("every node of the cluster was lost")


def resources_per_job(
    nodes: Sequence[Mapping[str, Any]], threads: int, device: str | None, workers: int | None
) -> tuple[dict[str, float], list[Mapping[str, Any]]]:
    """Return the resources that a job takes, and the nodes that have them; raises `UserError` where none has.

    With GPUs a job takes one of `workers` shares of a GPU, and one CPU per thread; else the CPUs alone.
    """
    gpus = device is None and any(node["Resources"].get("GPU") for node in nodes)
    resources = {"CPU": float(threads)}
    if gpus:
        resources["GPU"] = math.floor(1e4 / (workers or 1)) / 1e4  # Ray counts no finer
    fitting = [
        node for node in nodes if all(node["Resources"].get(name, 0) >= count for name, count in resources.items())
    ]
    if not fitting:
        raise UserError(f"no node of the cluster has {threads} CPUs (--threads){' and a GPU' * gpus}")
    return resources, fitting


def run_on_ray(
    plan: Plan, queue: JobQueue, settings: WorkerSettings, address: str | None, device: str | None, workers: int | None
) -> None:
    """Run the unfinished jobs of a plan on a Ray cluster; the queue has results and failures, even if interrupted.

    Raises `UserError` where the cluster or one of its nodes cannot take part.
    """
    store = Store(settings.root, queue.listener.note)
    unfinished = unfinished_jobs(plan, queue, store)
    if not unfinished:
        return
    queue.replace_jobs(order_jobs(unfinished, store, torch.device("cpu")))
    ray, address = import_ray(), address or os.environ.get("RAY_ADDRESS") or LOCAL_ADDRESS
    from uebench.executors.ray_worker import RayNodeSpec, hash_source, run_ray_job  # which imports it

    threads = settings.threads
    cpus = threads * (workers or max(1, count_cores() // threads))
    with _connect(ray, address, cpus), _write_token(settings.root) as (token, content):
        alive = [node for node in ray.nodes() if node["Alive"]]
        resources, nodes = resources_per_job(alive, threads, device, workers)
        gpu = resources.get("GPU", 0.0)
        if workers and not gpu and address != LOCAL_ADDRESS:
            raise UserError("--workers divides the GPUs of a cluster; on its processors a job takes --threads CPUs")
        spec = ray.put(RayNodeSpec(settings, "cuda:0" if gpu else "cpu", token, content, hash_source()))
        _check_nodes(ray, spec, nodes)
        reports = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Reports)
        driver_node = _node_affinity(ray, ray.get_runtime_context().get_node_id())
        reports = reports.options(scheduling_strategy=driver_node).remote()
        ray.get(reports.take.remote())  # the actor is ready before a job sends a message
        run_task = ray.remote(num_cpus=resources["CPU"], num_gpus=gpu, max_retries=RETRIES)(run_ray_job)
        refs: dict[str, Any] = {}
        for job in queue.jobs:  # each stands after those that it needs
            needs = [refs[need.key] for need in job.needs if need.key in refs]
            refs[job.key] = run_task.remote(spec, reports, pickle.dumps(job), job.key, *needs)
        _follow(ray, queue, refs, reports, settings)


def _follow(ray: Any, queue: JobQueue, refs: Mapping[str, Any], reports: Any, settings: WorkerSettings) -> None:
    """Pass messages and outcomes of the tasks to the queue, until all tasks have ended."""
    jobs = {job.key: job for job in queue.jobs}
    waiting, started = {ref: jobs[key] for key, ref in refs.items()}, set[str]()

    def receive(job: Job, message: Message) -> None:
        if isinstance(message, Begun) and job.key in started:
            names = {node["NodeID"]: node["NodeName"] for node in ray.nodes()}
            name = names.get(message.node, "?")
            queue.listener.note(f"a process or node was lost; its job goes on at node {name}")
        elif isinstance(message, Begun):
            started.add(job.key)
            queue.mark_started(job)
        elif isinstance(message, StepReport):
            queue.listener.progressed(job, message)
        elif isinstance(message, Note):
            queue.listener.note(message.line)
        elif isinstance(message, Held):
            queue.mark_held(job, message)
        elif isinstance(message, Silent):
            del waiting[refs[job.key]]
            ray.cancel(refs[job.key], force=True)
            queue.close(job, Failed(silence_message(settings.patience or 0)))

    def close(job: Job, ref: Any) -> None:
        try:
            outcome = ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            outcome = Failed(str(error).strip().splitlines()[-1], str(error))
        except ray.exceptions.RayError:
            outcome = Failed(f"its process or node was lost {RETRIES + 1} times; out of memory?")
        if isinstance(outcome, Skipped) or job.key in queue.failures:  # it failed with a job that it needs
            return
        if job.key not in started:
            receive(job, Begun())
        queue.close(job, outcome)

    try:
        while waiting:
            queue.check_interrupted()
            ready, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=PAUSE / 2)
            for key, message in ray.get(reports.take.remote()):
                if refs[key] in waiting:
                    receive(jobs[key], message)
            for ref in ready:
                if ref in waiting:
                    close(waiting.pop(ref), ref)
    finally:
        for ref in waiting:
            ray.cancel(ref, force=True)
