"""A process killed, short of memory or hung, a data set broken or hung: the rest is done, and later what failed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch
from torch import Tensor

from tests.conftest import TINY
from tests.executors.test_local import Watcher, planned
from uebench import Breaker
from uebench.executors.local import run_locally
from uebench.executors.scheduler import JobQueue

PLUGIN = """
import os, pathlib, signal, time
import torch, uebench
from uebench import Dataset, Split

WELL = pathlib.Path("well")


class Source(uebench.Source):
    "Random images with one brightness a class."
    name = "fine"
    def load(self, folder):
        draw = torch.Generator().manual_seed(0)
        labels = torch.arange(64) % 4
        images = torch.randint(0, 128, (64, 3, 8, 8), generator=draw) + 32 * labels[:, None, None, None]
        split = Split(images.to(torch.uint8), labels)
        return Dataset(split, split, list("abcd"))


class Broken(Source):
    "Cannot be decoded."
    name = "broken"
    def load(self, folder):
        if WELL.exists():
            return super().load(folder)
        raise OSError("the disk is gone")


class Lost(Source):
    "Cannot be looked at."
    name = "lost"
    def fingerprint(self, folder):
        if not WELL.exists():
            raise uebench.UserError("no such place")
        return ""


class Stuck(Source):
    "Never comes back."
    name = "stuck"
    def load(self, folder):
        if not WELL.exists():
            time.sleep(1000)
        return super().load(folder)


class Breaker(uebench.Breaker):
    def filter(self, images, labels):
        if not WELL.exists():
            self.ail()
        return images


class Dies(Breaker):
    "Kill its process."
    name = "dies"
    def ail(self):
        os.kill(os.getpid(), signal.SIGKILL)


class Greedy(Breaker):
    "Ask for more memory than there is."
    name = "greedy"
    def ail(self):
        torch.empty(10**15)


class Poisons(Breaker):
    "Leave its process unusable, as what goes wrong on a GPU does; comes first, being the longest."
    name = "poisons"
    def passes(self):
        return 100
    def ail(self):
        torch.set_default_device("meta")
        raise RuntimeError("device-side assert triggered")


class Sleeps(Breaker):
    "Hang."
    name = "sleeps"
    def ail(self):
        time.sleep(1000)


@uebench.hookimpl
def register_datasets():
    return [Source, Broken, Lost, Stuck]


@uebench.hookimpl
def register_breakers():
    return [Dies, Greedy, Poisons, Sleeps]
"""


def test_the_rest_is_done_the_summary_says_what_failed_and_the_same_command_does_only_that(
    run: Callable[..., CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "ill.py").write_text(PLUGIN)
    datasets = [word for name in ("fine", "broken", "lost", "stuck") for word in ("--dataset", name)]
    breakers = [word for name in ("dies", "greedy", "poisons", "sleeps", "grayscale") for word in ("--breaker", name)]
    words = ["run", str(TINY), "--plugin", "ill.py", "--noise", "none", *datasets, *breakers]
    words += ["--workers", "1", "--patience", "12"]
    ill = run(*words)
    assert ill.returncode == 1, ill.stdout + ill.stderr
    failed = re.findall(r"^failed: (.*)$", ill.stderr, re.MULTILINE)
    silent = "it reported nothing for 12 s (--patience), so its process was ended"
    costs = "cannot be used, and so 6 cells cannot be run"
    memory = "out of memory on cpu; fewer --workers leave each more, or a smaller batch in the recipe ("
    expected = {
        f"data set broken {costs}: OSError: the disk is gone",
        f"data set lost {costs}: no such place",
        f"data set stuck {costs}: {silent}",
        "none / dies on smallcnn, seed 0, fine: its process died (exit code -9); out of memory?",
        "none / poisons on smallcnn, seed 0, fine: RuntimeError: device-side assert triggered",
        f"none / sleeps on smallcnn, seed 0, fine: {silent}",
    }
    assert expected < set(failed)
    (other,) = set(failed) - expected
    assert other.startswith(f"none / greedy on smallcnn, seed 0, fine: {memory}")
    assert "22 of 24 cells are missing. The same command tries them again." in ill.stderr
    assert "OSError: the disk is gone" in ill.stderr
    done = set(re.findall(r"done   (none / .*?):", ill.stdout))
    assert done == {"none / none on smallcnn, seed 0, fine", "none / grayscale on smallcnn, seed 0, fine"}
    (tmp_path / "well").touch()
    well = run(*words)
    assert well.returncode == 0, well.stdout + well.stderr
    begun = re.findall(r"start  (.*)", well.stdout)
    assert begun.count("making none for fine, seed 0") == 0
    assert sum(line.startswith("making") for line in begun) == 3
    assert len(begun) == 3 + 22


class Greedy(Breaker):
    """Ask for more memory than there is, as asked."""

    name = "greedy"

    def filter(self, images: Tensor, labels: Tensor) -> Tensor:
        raise ERRORS.pop()


ERRORS: list[Exception] = []


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried"), MemoryError()], ids=["gpu", "host"]
)
def test_short_of_memory_is_said_with_what_helps_and_the_process_goes_on(error: Exception, tmp_path: Path) -> None:
    ERRORS[:] = [error]
    watcher = Watcher()
    queue = JobQueue(watcher)
    run_locally(planned([], [Greedy()]), queue, tmp_path, device="cpu", workers=1, threads=1, every=60)
    ((reason, trace),) = watcher.reasons
    assert reason.startswith("out of memory on cpu; fewer --workers leave each more")
    assert not trace
    assert [result.parameters["breaker"] for result in queue.results.values()] == ["none@1"]


def test_a_single_data_set_that_is_broken_ends_the_command_at_once(
    run: Callable[..., CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "ill.py").write_text(PLUGIN)
    words = ["run", str(TINY), "--plugin", "ill.py", "--noise", "none", "--breaker", "none"]
    for name, line in (("lost", "no such place"), ("broken", "OSError: the disk is gone")):
        done = run(*words, "--dataset", name)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1] == f"Error: {line}"
        assert ("Traceback" in done.stderr) == (name == "broken")
