"""Who may import whom: packages of the engine lie on layers, and the engine knows no plug-in."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import uebench
from tests.conftest import ROOT
from uebench.components.registry import registry
from uebench.planning.plan import cell_identity, content_key
from uebench.storage.results_file import read_results

ENGINE, BUILT_INS = ROOT / "uebench", ROOT / "plugins" / "uebench_plugins"
LAYERS = [
    {"components"},
    {"compute", "planning", "storage"},
    {"jobs", "board"},
    {"executors", "site", "authoring"},
    {"submission", "workflows"},
    {"cli"},
]
"""A package imports itself and packages on lower layers, in this order."""
MODULES = [*sorted(ENGINE.rglob("*.py")), *sorted(BUILT_INS.rglob("*.py"))]
SMALLEST_MODULE, LARGEST_MODULE = 40, 350
SHORT_MODULES = {
    "check.py": "public: re-exports one function",
    "errors.py": "every package needs it, and it needs none",
    "gallery.py": "draws one picture, and is searched by that name",
    "hookspecs.py": "the hooks and their documentation, nothing else",
    "precision.py": "most modules of its package need it, and it needs none",
    "ray_reports.py": "the process that holds it must stay small",
    "seeds.py": "most modules of its package need it, and it needs none",
}
"""Modules of the engine below the limit, and why. A built-in has a file of its own however short it is, so that a
broken file takes nothing else down."""
WITHOUT_TORCH = {"components", "planning", "storage", "board", "site", "submission"}
"""Packages whose modules import no torch, themselves or through others; built-in components do."""
PUBLIC = {
    "__init__": {"components"},
    "__main__": {"cli"},
    "api": {"board", "components", "executors", "planning", "workflows"},
    "check": {"authoring"},
    "kit": {"components", "compute"},
}
"""What each file of the public API imports."""


def imports(path: Path) -> Iterator[str]:
    """Yield the full name of everything that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def allowed(path: Path) -> set[str]:
    """Return the packages that a module of the engine may import."""
    package = path.relative_to(ENGINE).parts[0]
    if path.parent == ENGINE:
        return PUBLIC[path.stem]
    layer = next(number for number, packages in enumerate(LAYERS) if package in packages)
    return {package}.union(*LAYERS[:layer])


def test_the_engine_is_its_public_files_and_packages() -> None:
    assert {path.stem for path in ENGINE.glob("*.py")} == set(PUBLIC)
    assert {path.parent.name for path in ENGINE.glob("*/__init__.py")} == set.union(*LAYERS)


@pytest.mark.parametrize("path", sorted(ENGINE.rglob("*.py")), ids=lambda path: "-".join(path.parts[-2:]))
def test_a_package_imports_lower_layers_only(path: Path) -> None:
    for name in imports(path):
        root, _, rest = name.partition(".")
        assert root != "uebench_plugins", f"{path} imports {name}"
        if root == "uebench" and rest and name != "uebench.__version__":
            assert rest.partition(".")[0] in allowed(path), f"{path} imports {name}"


@pytest.mark.parametrize("path", [*ENGINE.rglob("*.py"), *BUILT_INS.rglob("*.py")], ids=lambda path: path.stem)
def test_every_module_opens_with_a_sentence(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("package", sorted(WITHOUT_TORCH))
def test_a_package_of_the_engine_loads_no_torch(package: str) -> None:
    modules = [f"uebench.{package}.{path.stem}" for path in sorted((ENGINE / package).glob("*.py"))]
    code = f"import sys, {', '.join(modules)}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: "-".join(path.parts[-2:]))
def test_a_module_holds_one_idea(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= LARGEST_MODULE
    if ENGINE in path.parents and path.name not in ("__init__.py", "__main__.py", *SHORT_MODULES):
        assert lines >= SMALLEST_MODULE, "merge it, or give the reason in SHORT_MODULES"


def test_short_modules_exist_and_are_short() -> None:
    names = {path.name: len(path.read_text().splitlines()) for path in MODULES if path.parent.name != "authoring"}
    assert all(names[name] < SMALLEST_MODULE for name in SHORT_MODULES)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: "-".join(path.parts[-2:]))
def test_a_loop_variable_says_what_it_holds(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.For | ast.comprehension):
            names = {name.id for name in ast.walk(node.target) if isinstance(name, ast.Name)}
            assert not names & {"one", "item", "thing", "x"}, f"{path}: {ast.unparse(node.target)}"


@pytest.mark.parametrize("path", sorted((ROOT / "leaderboards").glob("*/results.jsonl")), ids=lambda p: p.parent.name)
def test_the_key_of_every_committed_record_is_reproduced(path: Path) -> None:
    for key, result in read_results(path).items():
        identity = cell_identity(result.parameters, result.protected, result.kind, result.seed)
        assert content_key(identity) == key


def test_a_public_name_is_defined_once_in_the_engine() -> None:
    places = defaultdict(set)
    for path in ENGINE.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = [getattr(node, "name", "")]
            if isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names = [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
            for name in names:
                if name and not name.startswith("_"):
                    places[name].add(str(path.relative_to(ENGINE)))
    assert not {name: sorted(found) for name, found in places.items() if len(found) > 1}


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
