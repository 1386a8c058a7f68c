"""Runs jobs on a node of a Ray cluster: checks that the node can take part, and reports how its jobs go."""

from __future__ import annotations

import hashlib
import importlib.util
import pickle
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch

from uebench.components.errors import UserError
from uebench.components.registry import registry
from uebench.executors.messages import Begun, Done, Failed, Held, Message, Note, Outcome, Silent, Skipped, StepReport
from uebench.executors.scheduler import PAUSE, attempt_job
from uebench.executors.worker_pool import WorkerSettings
from uebench.jobs.workspace import Workspace
from uebench.storage.store import Store


@dataclass(frozen=True)
class RayNodeSpec:
    """What every node must agree on: the settings, the device, a token in the store, and a hash of each package."""

    settings: WorkerSettings
    device: str
    token: str
    content: bytes
    code: Mapping[str, str]


def hash_source() -> dict[str, str]:
    """Return a hash of the source of the engine and of each package that has components here."""
    classes = [entry.cls for entries in registry().entries.values() for entry in entries.values()]
    files = {file.module for file in registry().files}
    packages = {"uebench", *(cls.__module__.partition(".")[0] for cls in classes)} - files
    return {package: _hash_package(package) for package in sorted(packages)}


def _hash_package(package: str) -> str:
    """Return a hash of a package's source, empty where it is not installed."""
    spec = importlib.util.find_spec(package)
    digest = hashlib.sha256()
    for folder in (spec and spec.submodule_search_locations) or []:
        for path in sorted(Path(folder).rglob("*.py")):
            digest.update(f"{path.relative_to(folder).as_posix()}\n".encode() + path.read_bytes())
    if spec and spec.origin and not spec.submodule_search_locations:
        digest.update(Path(spec.origin).read_bytes())
    return digest.hexdigest() if spec else ""


def find_obstacles(spec: RayNodeSpec) -> list[str]:
    """Return the reasons why this node cannot take part; loads the plug-in files."""
    obstacles, components, root = list[str](), registry(), spec.settings.root
    try:
        shared = (root / spec.token).read_bytes() == spec.content
    except OSError:
        shared = False
    if not shared:
        obstacles.append(f"does not see the store {root}, which must be on a file system that all nodes share")
    for package, expected in spec.code.items():
        actual = _hash_package(package)
        if actual != expected:
            obstacles.append(f"has another version of {package} than this machine" if actual else f"has no {package}")
    for file in spec.settings.files:
        try:
            components.add(file)
        except UserError as error:
            obstacles.append(f"cannot load a plug-in: {error}")
    return obstacles


_checked_tokens = set[str]()
"""Tokens of the runs for which this process was checked."""


def run_ray_job(
    spec: RayNodeSpec, reports: Any, packed: bytes, key: str, *needs: Outcome | Skipped
) -> Outcome | Skipped:
    """Run a job, unless one that it needs failed; returns how it ended."""
    if any(not isinstance(outcome, Done) for outcome in needs):
        return Skipped()
    if spec.token not in _checked_tokens and (obstacles := find_obstacles(spec)):  # a node that joined during the run
        return Failed(f"a node of the cluster {'; '.join(obstacles)}")
    _checked_tokens.add(spec.token)
    settings, last_report, over = spec.settings, [time.monotonic()], threading.Event()

    def send(message: Message) -> None:
        last_report[0] = time.monotonic()
        reports.add.remote(key, message)

    def report(step: int, count: int, loss: float | None) -> None:
        send(StepReport(step, count, loss))

    def watch(patience: float) -> None:
        while not over.wait(min(1.0, patience / 4)):
            if time.monotonic() - last_report[0] > patience:
                reports.add.remote(key, Silent())
                return

    torch.set_num_threads(settings.threads)
    store = Store(settings.root, lambda line: send(Note(line)))
    workspace = Workspace(store, torch.device(spec.device), settings.every)
    job = pickle.loads(packed)  # only now, as it may have a component of a plug-in file
    send(Begun(ray.get_runtime_context().get_node_id()))
    if settings.patience:
        threading.Thread(target=watch, args=(settings.patience,), daemon=True).start()
    try:
        while isinstance(outcome := attempt_job(job, workspace, report), Held):
            send(outcome)
            time.sleep(PAUSE)
    finally:
        over.set()
    return outcome
