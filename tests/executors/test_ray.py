"""Runs on a Ray cluster of several nodes on this machine: the same numbers, a node lost on the way, nodes not fit."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from msgspec import structs
from torch import Tensor

from tests.conftest import TINY
from tests.executors.test_local import Bug, Dies, Watcher, planned
from uebench import Breaker, Context, Noise, UserError, parameter
from uebench.cli.main import main
from uebench.components.registry import registry
from uebench.executors import ray_driver
from uebench.executors.local import run_locally
from uebench.executors.scheduler import PAUSE, JobQueue
from uebench.executors.worker_pool import WorkerSettings
from uebench.planning.plan import Protect
from uebench.storage.result import VARYING_FIELDS
from uebench.storage.store import Store

ray = pytest.importorskip("ray", reason="Ray is not installed")
from ray.cluster_utils import Cluster  # noqa: E402  (only where it is installed)


class Slow(Noise):
    """Add up random steps, slowly, and write down on which node it goes on, and where; never end on a doomed one."""

    name = "slow"
    log: str = parameter(default="", identity=False)
    doomed: str = parameter(default="", identity=False)

    def make(self, images: Tensor, labels: Tensor, context: Context) -> Tensor:
        delta = context.kept().get("delta", torch.zeros_like(images))
        node = ray.get_runtime_context().get_node_id() if self.log else ""
        first = True
        for step in context.steps(60):
            if self.log and first:
                with open(self.log, "a") as file:
                    file.write(f"{node} {step} {self.radius}\n")
            first = False
            if self.log:
                time.sleep(1000 if node == self.doomed and step > 20 else 0.05)
            delta = delta + torch.randn_like(images) * self.radius / 60
            context.keep(delta=delta)
        return delta.clamp(-self.radius, self.radius)


RADII = (0.1, 0.2, 0.3, 0.4)
"""As many jobs as two nodes take at once: each has its two, wherever Ray begins."""


class Sleeps(Breaker):
    """Hang."""

    name = "sleeps"

    def filter(self, images: Tensor, labels: Tensor) -> Tensor:
        time.sleep(1000)
        return images


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """Start a head without processors, and a node of two; tests add more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")  # else whatever runs besides starves its processes
        yield from _started()


def _started() -> Iterator[Any]:
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "num_gpus": 0, "include_dashboard": False})
    made.add_node(num_cpus=2, num_gpus=0, node_name="first")
    ray.init(address=made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


def terms(root: Path, patience: float | None = None) -> WorkerSettings:
    return WorkerSettings(root, 1, 0.0, patience, registry().files)


def released(root: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in root.rglob("released.safetensors")}


def numbers(queue: JobQueue) -> dict[str, dict[str, Any]]:
    results = {key: structs.asdict(one).items() for key, one in queue.results.items()}
    return {key: {name: value for name, value in one if name not in VARYING_FIELDS} for key, one in results.items()}


def test_a_lost_node_costs_its_running_jobs_only_and_changes_no_number(nodes: Any, tmp_path: Path) -> None:
    second, log = nodes.add_node(num_cpus=2, num_gpus=0, node_name="second"), tmp_path / "log"
    breakers: list[Breaker] = [registry().build("breaker", "adv-linf:steps=1")]  # type: ignore[list-item]
    (doomed,) = (node["NodeID"] for node in ray.nodes() if node["NodeName"] == "second")
    plan = planned([Slow(radius=radius, log=str(log), doomed=doomed) for radius in RADII], breakers)
    plain = planned([Slow(radius=radius) for radius in RADII], breakers)
    watcher = Watcher()
    here, away = JobQueue(Watcher()), JobQueue(watcher)
    run_locally(plain, here, tmp_path / "here", device="cpu", workers=1, threads=1, every=0)

    keys = {str(job.noise.radius): job.key for job in plan.protects if isinstance(job.noise, Slow)}

    def on_second() -> list[str]:
        """Return the keys of the noises that are made there."""
        begun = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
        return [keys[radius] for node, _, radius in begun if node == doomed]

    def kill() -> None:
        for _ in range(5000):
            if [(tmp_path / "away" / "half" / key).exists() for key in on_second()] == [True, True]:
                break
            time.sleep(0.02)
        nodes.remove_node(second, allow_graceful=False)

    thread = threading.Thread(target=kill)
    thread.start()
    ray_driver.run_on_ray(plan, away, terms(tmp_path / "away"), None, None, None)
    thread.join()
    assert not away.failures
    assert numbers(away) == numbers(here)
    assert released(tmp_path / "away") == released(tmp_path / "here")
    assert not list((tmp_path / "away").glob("ray-*"))
    begun = [line.split() for line in log.read_text().splitlines()]
    again = [(node, int(step)) for node, step, _ in begun if int(step) > 0]
    assert again, "the lost jobs started over"
    assert len(begun) - len(again) == len(RADII)
    assert any(
        re.fullmatch(r"a process or node was lost; its job goes on at node first", line) for line in watcher.lines
    )
    assert len({job.key for job in watcher.begun}) == len(watcher.begun) == len(plan.jobs)
    assert watcher.counts


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ({"a": "well", "b": "lost"}, None),
        ({"a": "well", "b": "silent"}, "node b: gives no answer: no answer"),
        ({"a": "lost", "b": "lost"}, "every node of the cluster was lost"),
    ],
    ids=["one lost", "one silent", "all lost"],
)
def test_only_a_node_that_is_there_can_be_unfit(
    states: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which nodes are lost is only known once they have been asked."""

    def get(node: str, timeout: float) -> list[str]:
        if states[node] != "well":
            raise ray.exceptions.RayError("no answer")
        return []

    ask = SimpleNamespace(options=lambda scheduling_strategy: SimpleNamespace(remote=lambda site: scheduling_strategy))
    monkeypatch.setattr(ray_driver, "_node_affinity", lambda ray, node: node)
    fake = SimpleNamespace(
        remote=lambda **options: lambda work: ask,
        get=get,
        exceptions=ray.exceptions,
        nodes=lambda: [{"NodeID": node, "Alive": state != "lost"} for node, state in states.items()],
    )
    asked = [{"NodeID": node, "NodeName": node} for node in states]
    if expected is None:
        ray_driver._check_nodes(fake, None, asked)
    else:
        with pytest.raises(UserError, match=expected):
            ray_driver._check_nodes(fake, None, asked)


def test_a_job_held_by_another_process_is_waited_for_and_said_once(nodes: Any, tmp_path: Path) -> None:
    watcher, plan = Watcher(), planned([], [])
    queue, (noise,), held = JobQueue(watcher), plan.protects, threading.Event()

    def hold() -> None:
        with Store(tmp_path).lock(noise.key):
            held.set()
            for _ in range(1500):
                if watcher.lines:
                    time.sleep(4 * PAUSE)
                    return
                time.sleep(0.02)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(10)
    ray_driver.run_on_ray(plan, queue, terms(tmp_path), None, None, None)
    thread.join()
    assert not queue.failures
    assert len(queue.results) == len(plan.cells)
    assert watcher.lines == ["another process is at work on a job of this run; waiting for it"]


def test_failures_cost_their_own_cells(nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_driver, "RETRIES", 1)
    watcher = Watcher()
    queue = JobQueue(watcher)
    breakers: list[Breaker] = [Dies(), Sleeps(), registry().build("breaker", "adv-linf:steps=1")]  # type: ignore[list-item]
    plan = planned([Bug()], breakers)
    ray_driver.run_on_ray(plan, queue, terms(tmp_path, patience=10), None, None, None)
    breakers_done = {result.parameters["breaker"].partition("@")[0] for result in queue.results.values()}
    assert breakers_done == {"none", "adv-linf"}
    assert {result.parameters["noise"] for result in queue.results.values()} == {"none@1"}
    reasons = dict(watcher.reasons)
    assert set(reasons) == {
        "KeyError: 'key'",
        "its process or node was lost 2 times; out of memory?",
        "it reported nothing for 10 s (--patience), so its process was ended",
    }
    assert 'return {}["key"]' in reasons["KeyError: 'key'"]
    (bug,) = [job for job in plan.protects if job.noise.name == "bug"]
    doomed = [cell for cell in plan.cells if cell.protect == bug]
    assert {queue.failures[cell.key] for cell in doomed} == {"a job that it needs failed: KeyError: 'key'"}
    assert not {cell.key for cell in doomed} & {job.key for job in watcher.begun}
    assert sum(isinstance(job, Protect) for job in watcher.begun) == 2


def test_a_node_that_does_not_see_the_store_or_has_other_code_is_named_before_all_work(
    nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from uebench.executors import ray_worker

    monkeypatch.setattr(ray_worker, "hash_source", lambda: {"uebench": "other", "absent": "other"})
    (tmp_path / "elsewhere").mkdir()
    write_token = ray_driver._write_token
    monkeypatch.setattr(ray_driver, "_write_token", lambda root: write_token(tmp_path / "elsewhere"))
    watcher = Watcher()
    with pytest.raises(UserError) as caught:
        ray_driver.run_on_ray(planned([], []), JobQueue(watcher), terms(tmp_path / "store"), None, None, None)
    assert str(caught.value).split("; ") == [
        f"node first: does not see the store {tmp_path / 'store'}, which must be on a file system that all nodes share",
        "node first: has another version of uebench than this machine",
        "node first: has no absent",
    ]
    assert not watcher.begun


def test_a_job_takes_a_share_of_a_gpu_or_as_many_processors_as_threads() -> None:
    small, large = {"Resources": {"CPU": 4.0}}, {"Resources": {"CPU": 16.0, "GPU": 2.0}}
    assert ray_driver.resources_per_job([small, large], 2, None, 3) == ({"CPU": 2.0, "GPU": 0.3333}, [large])
    assert ray_driver.resources_per_job([small, large], 2, "cpu", None) == ({"CPU": 2.0}, [small, large])
    assert ray_driver.resources_per_job([small], 4, None, None) == ({"CPU": 4.0}, [small])
    with pytest.raises(UserError, match=r"no node of the cluster has 8 CPUs \(--threads\)$"):
        ray_driver.resources_per_job([small], 8, None, None)
    with pytest.raises(UserError, match=r"has 32 CPUs .* and a GPU"):
        ray_driver.resources_per_job([small, large], 32, None, None)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], '--executor ray needs Ray: pip install "uebench[ray]"'),
        (["--device", "cuda:0"], "with --executor ray, Ray chooses the GPU"),
    ],
)
def test_what_ray_cannot_do_is_one_line(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    if not words:
        monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SystemExit) as caught:
        main(["run", str(TINY), "--executor", "ray", *words])
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"Error: {expected}")
    assert not list(tmp_path.iterdir())


PLUGIN = """
import uebench

class Stamp(uebench.Noise):
    "Add the sign of a random pattern."
    name = "stamp"
    def make(self, images, labels, context):
        import torch
        return self.radius * torch.randn_like(images).sign()

@uebench.hookimpl
def register_noises():
    return [Stamp]
"""


def test_the_command_takes_a_plug_in_file_stops_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "stamp.py").write_text(PLUGIN)
    words = ["run", str(TINY), "--noise", "stamp", "--breaker", "adv-linf", "--plugin", "stamp.py"]
    command = [sys.executable, "-m", "uebench.cli", *words, "--executor", "ray", "--workers", "1"]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    environment["RAY_worker_niceness"] = "0"

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which background jobs ignore
        )

    process, output = start(), ""
    assert process.stdout
    while "done   making stamp" not in output:
        line = process.stdout.readline()
        assert line, output
        output += line
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130, rest
    assert "Traceback" not in rest
    assert re.search(r"Stopped with [0-3] of 4 cells done. The same command goes on from here.", rest)
    process = start()
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "start  making stamp" not in output
    assert "Board: .uebench/boards/tiny/README.md" in output
    assert not list((tmp_path / ".uebench").glob("ray-*"))
