"""`uebench new`: write the package of a new plug-in, with a small working method, its test, and a README."""

from __future__ import annotations

import importlib.util
import keyword
import os
import re
import shutil
from pathlib import Path

import jinja2

from uebench.components.errors import UserError
from uebench.components.registry import registry
from uebench.storage.atomic_files import reporting_write_errors

TEMPLATES = Path(__file__).parent / "templates"
PACKAGE_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def create_plugin(kind: str, name: str, into: Path) -> Path:
    """Write the folder `name` into another folder and return it; raises `UserError` for a name that cannot be used.

    The folder appears only after all files are written.
    """
    module = name.replace("-", "_")
    title = "".join(part.capitalize() for part in name.split("-"))
    _check_name(kind, name, module, title)
    folder, scratch = into / name, into / f".{name}.{os.getpid()}"
    if folder.exists() or folder.is_symlink():
        raise UserError(f"{folder} exists already; choose another name, or another folder with --into")
    texts = _render_files(kind, name=name, module=module, title=title)
    with reporting_write_errors(folder):
        try:
            for path, text in texts.items():
                (scratch / path).parent.mkdir(parents=True, exist_ok=True)
                (scratch / path).write_text(text, "utf-8")
            os.rename(scratch, folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _check_name(kind: str, name: str, module: str, title: str) -> None:
    if not PACKAGE_NAME.fullmatch(name):
        raise UserError(
            f"{name!r} is not a name: expected lower-case letters, digits and single hyphens, with a letter first"
        )
    if keyword.iskeyword(module) or keyword.iskeyword(title):
        raise UserError(f"{name!r} is a keyword of Python; choose another name")
    if name in registry().entries[kind]:
        entry = registry().entries[kind][name]
        raise UserError(f"the {kind} name {name} is taken by {entry.distribution} {entry.release}")
    installed = importlib.util.find_spec(module)
    if installed and installed.origin:  # a folder without modules has no origin
        raise UserError(f"a module {module} is installed already, from {installed.origin}; choose another name")


def _render_files(kind: str, **names: str) -> dict[str, str]:
    """Return the text of every file, by its path in the package."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    paths = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        f"{kind}.py": f"{names['module']}.py",
        "tests/test.py": f"tests/test_{names['module']}.py",
    }
    return {path: templates.get_template(f"{own}.jinja").render(kind=kind, **names) for own, path in paths.items()}
