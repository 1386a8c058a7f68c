"""What a command loads: help next to nothing, and PyTorch only where something is computed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, TINY
from uebench.components.registry import registry

COMPUTING = {"torch._C", "torchvision", "torch._dynamo", "skimage", "matplotlib", "ray"}


@pytest.mark.parametrize(
    "words", [["--help"], ["run", "--help"], ["--version"], ["run", "--seed", "x"], ["verify", "--help"]]
)
def test_help_loads_next_to_nothing(words: list[str]) -> None:
    assert not {*COMPUTING, "pandas", "rich", "numpy"} & loaded(words)


@pytest.mark.parametrize("words", [["plugins"], ["plugins", "none"], ["rank"], ["run", "--noise", "nothing"]])
def test_what_computes_nothing_loads_no_torch(words: list[str], tmp_path: Path) -> None:
    """Every built-in is looked at on the way."""
    shutil.copytree(ROOT / "leaderboards" / "demo", tmp_path / "leaderboards" / "demo")
    found = loaded(words, cwd=tmp_path)
    assert {entry.cls.__module__ for entries in registry().entries.values() for entry in entries.values()} <= found
    assert not COMPUTING & found


def test_a_finished_run_is_entered_again_without_torch(tmp_path: Path) -> None:
    words = ["run", str(TINY), "--noise", "none", "--breaker", "none", "--seed", "0"]
    assert "torch._C" in loaded(words, cwd=tmp_path)
    assert not COMPUTING & loaded(words, cwd=tmp_path)


def test_a_run_loads_only_what_its_components_need(tmp_path: Path) -> None:
    found = loaded(["run", "--dry-run"], cwd=tmp_path)
    assert COMPUTING & found == {"torch._C"}


def loaded(words: list[str], **where: Path) -> set[str]:
    """Return the modules that a command loads."""
    code = "import atexit, sys; atexit.register(lambda: print(*sys.modules)); from uebench import cli; cli.script()"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60, **where)
    assert done.returncode in (0, 2), done.stderr
    return set(done.stdout.splitlines()[-1].split())
