"""Modules that run when something of them is used, once, and are ordinary ones from then on."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from uebench.cli.lazy_imports import import_lazily

WHOLE = """
import runs
runs.seen.append(__name__)
from slow import inner
from slow.inner import value
"""
PART = """
import runs
runs.seen.append(__name__)
value = 3
"""


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The modules that ran, of a package that imports one of its two submodules."""
    (tmp_path / "slow").mkdir()
    for name, code in (("__init__", WHOLE), ("inner", PART), ("other", PART)):
        (tmp_path / "slow" / f"{name}.py").write_text(code)
    (tmp_path / "broken.py").write_text("raise OSError('no such device')")
    runs, finders, before = ModuleType("runs"), list(sys.meta_path), set(sys.modules)
    runs.seen = []  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "runs", runs)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield runs.seen
    sys.meta_path[:] = finders
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_module_runs_when_something_of_it_is_used(seen: list[str]) -> None:
    import_lazily("slow")
    module, again = importlib.import_module("slow"), importlib.import_module("slow")
    assert seen == []
    assert isinstance(module, ModuleType)
    assert module.value == 3
    assert seen == ["slow", "slow.inner"]
    assert module is again is sys.modules["slow"]
    assert type(module) is ModuleType
    with pytest.raises(AttributeError, match="module 'slow' has no attribute 'nothing'"):
        _ = module.nothing


@pytest.mark.parametrize("first", ["inner", "other"])
def test_what_is_imported_of_it_first_runs_once(first: str, seen: list[str]) -> None:
    """Where the package has imported it itself, too: twice is an error in some modules of torch."""
    import_lazily("slow")
    module = importlib.import_module(f"slow.{first}")
    assert sorted(seen) == ["slow", *sorted({"slow.inner", f"slow.{first}"})]
    assert module is sys.modules[f"slow.{first}"] is getattr(sys.modules["slow"], first)
    assert module.value == 3
    assert module.__spec__ is not None
    assert module.__spec__.loader is module.__loader__
    assert importlib.reload(module) is module
    with pytest.raises(ModuleNotFoundError, match=r"slow\.nothing"):
        importlib.import_module("slow.nothing")


def test_a_submodule_runs_later_than_what_it_is_of(seen: list[str]) -> None:
    import_lazily("slow.other")
    module = importlib.import_module("slow.other")
    assert seen == ["slow", "slow.inner"]
    assert sys.modules["slow"].other is module
    assert module.value == 3
    assert seen[2:] == ["slow.other"]


def test_what_is_loaded_or_not_there_is_left_alone(seen: list[str]) -> None:
    module = importlib.import_module("slow")
    import_lazily("slow", "nowhere")
    assert type(module) is ModuleType
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        importlib.import_module("nowhere")


def test_an_error_of_the_module_is_seen_where_it_is_used(seen: list[str]) -> None:
    import_lazily("broken")
    module = importlib.import_module("broken")
    for _ in range(2):
        with pytest.raises(OSError, match="no such device"):
            print(module.something)


@pytest.mark.parametrize(
    "first",
    [
        "from torch.nn import functional",
        "from torch.overrides import TorchFunctionMode",
        "import torch.utils.flop_counter",
        "import safetensors.torch; safetensors.torch.save_file",
        "import torchvision",
    ],
)
def test_torch_may_be_touched_first_by_what_is_in_it(first: str) -> None:
    """As a stranger's plug-in does."""
    program = f"""
import sys
from uebench.cli.lazy_imports import import_lazily
import_lazily("torch", "safetensors.torch")
import torch, safetensors.torch
assert "torch._C" not in sys.modules
{first}
import torch.nn.functional
assert torch.nn is sys.modules["torch.nn"] and torch.nn.functional is sys.modules["torch.nn.functional"]
assert torch.nn.Module is sys.modules["torch.nn.modules.module"].Module
print(safetensors.torch.load(safetensors.torch.save({{"x": torch.nn.functional.relu(torch.ones(1))}}))["x"].item())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ("1.0\n", 0), done.stderr
