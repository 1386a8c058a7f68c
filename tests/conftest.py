"""Fixtures shared by the tests: a suite that runs in seconds, a tiny network, and a place to work in."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torchvision import models

from uebench.jobs.workspace import Workspace
from uebench.storage.store import Store

os.environ["UEBENCH_DEVICE"] = "cpu"
"""Where there is a GPU, too, commands run on the processor, which gives the same bytes each time; see `test_gpu.py`."""
TINY = Path(__file__).parent / "data" / "suites" / "tiny.toml"
ROOT = Path(__file__).parent.parent


def environment(folder: Path, *places: Path) -> Path:
    """Make an environment that sees the libraries of this one, and other places; returns its Python."""
    venv.create(folder, with_pip=False)
    (packages,) = folder.glob("lib/python*/site-packages")
    seen = [sysconfig.get_path("purelib"), *map(str, places)]
    (packages / "ours.pth").write_text("".join(f"import site; site.addsitedir({place!r})\n" for place in seen))
    return folder / "bin" / "python"


def install(python: Path, *words: str) -> None:
    """Install into an environment, without a network and without what is needed, which it sees already."""
    options = ["install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    command = [sys.executable, "-m", "pip", "--python", str(python), *options, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return specifications of the targets that start from weights on disk, by their names."""
    path = tmp_path_factory.mktemp("pretrained") / "resnet18.safetensors"
    safetensors.torch.save_file(models.resnet18(weights=None).state_dict(), path)
    return {name: f"{name}:weights={path},size=32" for name in ("finetune", "linear-probe")}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", lambda line: None)


@pytest.fixture
def place(store: Store) -> Workspace:
    return Workspace(store, torch.device("cpu"))


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line as a person would, in a fresh folder."""

    def command(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "uebench.cli", *words],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return command
