"""Imports run one way, the engine knows no plug-in, and help costs nothing."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import uebench
from tests.conftest import ROOT
from uebench.registry import registry

LAYERS = [
    {"component"},
    {"api", "recipe", "files", "grammar", "norms", "later"},
    {"spec", "seeds", "replay", "precision", "elsewhere", "reports"},
    {"folding", "networks"},
    {"store", "sgd", "hookspecs", "pixels", "attacks", "untrusted", "agreement", "provenance", "plugin_file"},
    {"result", "log", "container", "kinds"},
    {"journal", "kit", "registry", "audit", "gallery", "bundle", "history"},
    {"suite_file", "train", "place", "restore", "scaffold"},
    {"suite"},
    {"data", "selection", "intervals", "options"},
    {"plan", "grouping"},
    {"forecast", "bench", "choosing", "seen", "standing"},
    {"cells"},
    {"work", "plausibility"},
    {"schedule", "leaderboard", "ranking", "naming", "again", "export", "compare", "families", "trial"},
    {"concordance", "breaker_contract"},
    {"processes", "display", "tables", "figures", "curves", "entry", "contract"},
    {"executors", "pages", "remote", "survey", "catalogue", "check", "preview", "plots"},
    {"cluster"},
    {"machine", "board"},
    {"commands", "submission", "sections"},
    {"rerun", "web"},
    {"submitting"},
    {"judging"},
    {"deciding"},
    {"desk", "showing", "authoring"},
    {"cli"},
]
ENGINE, BUILT_INS = ROOT / "uebench", ROOT / "plugins" / "uebench_plugins"


def imports(path: Path) -> Iterator[str]:
    """Yield the full name of everything that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def level(module: str) -> int:
    return next(place for place, layer in enumerate(LAYERS) if module in layer)


def test_every_module_has_a_layer_and_opens_with_a_sentence() -> None:
    modules = {path.stem for path in ENGINE.glob("*.py")} - {"__init__"}
    assert modules == set.union(*LAYERS)
    for path in [*ENGINE.rglob("*.py"), *BUILT_INS.rglob("*.py")]:
        assert ast.get_docstring(ast.parse(path.read_text())), path


@pytest.mark.parametrize("path", sorted(ENGINE.glob("*.py")), ids=lambda path: path.stem)
def test_imports_run_one_way(path: Path) -> None:
    for name in imports(path):
        package, _, rest = name.partition(".")
        assert package != "uebench_plugins"
        module = rest.partition(".")[0]
        if package == "uebench" and (ENGINE / f"{module}.py").exists() and path.stem != "__init__":
            assert level(module) < level(path.stem), f"{path.stem} imports {module}"


@pytest.mark.parametrize("path", sorted(BUILT_INS.rglob("*.py")), ids=lambda path: f"{path.parent.stem}-{path.stem}")
def test_built_ins_use_the_engine_as_a_stranger_would(path: Path) -> None:
    for name in imports(path):
        if name.split(".")[0] == "uebench":
            public = name.removeprefix("uebench.").partition(".")[0]
            assert name == "uebench" or public == "kit" or public in uebench.__all__, f"{path} imports {name}"


def test_the_engine_names_no_component() -> None:
    names = {name for entries in registry().entries.values() for name in entries}
    names -= {"none", "cuda"}  # the second is also what torch calls a device
    own = {entry.cls.__name__ for entries in registry().entries.values() for entry in entries.values()}
    for path in sorted(ENGINE.rglob("*")):
        if path.suffix not in {".py", ".toml", ".html", ".jinja"}:
            continue
        text = path.read_text()
        assert "uebench_plugins" not in text, path
        if path.suffix != ".py":
            told = names - ({"file", "folder"} if path.suffix == ".jinja" else set())  # words of its prose
            assert not re.findall(rf"\b({'|'.join(told)})\b", text), path
            continue
        for node in ast.walk(ast.parse(text)):
            documented = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and not documented:
                assert node.value not in names, f"{path}:{node.lineno} names {node.value}"
            if isinstance(node, ast.Name | ast.Attribute):
                name = node.id if isinstance(node, ast.Name) else node.attr
                assert name not in own, f"{path}:{node.lineno} names {name}"


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
    words = ["run", str(ROOT / "tests" / "suites" / "tiny.toml"), "--noise", "none", "--breaker", "none", "--seed", "0"]
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
