"""What runs on a node of a Ray cluster: it says whether it can take part, does jobs, and tells how they go."""

from __future__ import annotations

import hashlib
import importlib.util
import pickle
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch

from uebench.components.errors import UserError
from uebench.components.registry import registry
from uebench.executors.scheduler import PAUSE, attempt_job
from uebench.executors.worker_pool import WorkerSettings
from uebench.jobs.workspace import Workspace
from uebench.storage.store import Store


@dataclass(frozen=True)
class RayNodeSpec:
    """What every node has to agree on: how jobs are done, a token to be found in the store, and the code."""

    terms: WorkerSettings
    device: str
    token: str
    content: bytes
    code: Mapping[str, str]


def hash_source() -> dict[str, str]:
    """Return a hash of the source of the engine and of each package that components here come from."""
    classes = [entry.cls for entries in registry().entries.values() for entry in entries.values()]
    files = {file.module for file in registry().files}
    packages = {"uebench", *(cls.__module__.partition(".")[0] for cls in classes)} - files
    return {package: _hash(package) for package in sorted(packages)}


def _hash(package: str) -> str:
    """Return a hash of a package's source, empty where it is not installed."""
    found = importlib.util.find_spec(package)
    whole = hashlib.sha256()
    for folder in (found and found.submodule_search_locations) or []:
        for path in sorted(Path(folder).rglob("*.py")):
            whole.update(f"{path.relative_to(folder).as_posix()}\n".encode() + path.read_bytes())
    if found and found.origin and not found.submodule_search_locations:
        whole.update(Path(found.origin).read_bytes())
    return whole.hexdigest() if found else ""


def find_obstacles(site: RayNodeSpec) -> list[str]:
    """Return what keeps this node from taking part; loads its plug-ins."""
    found, known, root = list[str](), registry(), site.terms.root
    try:
        seen = (root / site.token).read_bytes() == site.content
    except OSError:
        seen = False
    if not seen:
        found.append(f"does not see the store {root}, which must be on a file system that all nodes share")
    for package, ours in site.code.items():
        theirs = _hash(package)
        if theirs != ours:
            found.append(f"has another version of {package} than this machine" if theirs else f"has no {package}")
    for file in site.terms.files:
        try:
            known.add(file)
        except UserError as error:
            found.append(f"cannot load a plug-in: {error}")
    return found


_admitted = set[str]()


def run_ray_job(site: RayNodeSpec, reports: Any, packed: bytes, key: str, *needs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Do a job, unless one that it needs failed; returns how it ended, as `Queue.close` takes it, or `spared`."""
    if any(need[0] != "done" for need in needs):
        return ("spared",)
    if site.token not in _admitted and (wrong := find_obstacles(site)):  # a node that came later was not asked before
        return "failed", f"a node of the cluster {'; '.join(wrong)}", ""
    _admitted.add(site.token)
    terms, heard, over = site.terms, [time.monotonic()], threading.Event()

    def tell(*report: Any) -> None:
        heard[0] = time.monotonic()
        reports.tell.remote(key, *report)

    def watch(patience: float) -> None:
        while not over.wait(min(1.0, patience / 4)):
            if time.monotonic() - heard[0] > patience:
                reports.tell.remote(key, "hung")
                return

    torch.set_num_threads(terms.threads)
    place = Workspace(Store(terms.root, partial(tell, "said")), torch.device(site.device), terms.every)
    job = pickle.loads(packed)  # only now, as it may have a component of a plug-in file
    tell("begun", ray.get_runtime_context().get_node_id())
    if terms.patience:
        threading.Thread(target=watch, args=(terms.patience,), daemon=True).start()
    try:
        while (ended := attempt_job(job, place, partial(tell, "step")))[0] == "busy":
            tell(*ended)
            time.sleep(PAUSE)
    finally:
        over.set()
    return ended
