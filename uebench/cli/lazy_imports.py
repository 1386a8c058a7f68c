"""Puts off running a module until something of it is used: PyTorch takes seconds, and few commands compute.

`importlib.util.LazyLoader` runs a module where it is imported a second time, and twice what it imports of its own.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class _Later(ModuleType):
    """A module that has not run yet; it runs, on the thread that comes first, when it is asked for what it lacks."""

    def __getattr__(self, name: str) -> Any:
        _run(self)
        return getattr(self, name)


def _run(module: ModuleType) -> None:
    assert module.__spec__
    assert module.__spec__.loader
    module.__class__ = ModuleType
    try:
        module.__spec__.loader.exec_module(module)
    except Exception:
        module.__class__ = _Later  # whoever uses it next is told the same, not that half of it is lacking
        raise


class _There(Loader):
    """Gives the import system a module that ran meanwhile, as it is."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module."""
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        """Put back what the import system wrote over."""
        module.__spec__ = self.spec


class _Submodules(MetaPathFinder):
    """Runs a module that was put off before one of its own is looked for, and tells if that is there by then."""

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return how to come by the submodule where it ran on the way; None otherwise."""
        parent = sys.modules.get(name.rpartition(".")[0])
        if type(parent) is not _Later:
            return None
        _run(parent)
        module = sys.modules.pop(name, None)  # or the import system would run it again
        return ModuleSpec(name, _There(module)) if module else None


def import_lazily(*names: str) -> None:
    """Let an import of these modules bind their names only, until something of them is used.

    What is loaded already, or not installed, is left alone.
    """
    for name in names:
        spec = None if name in sys.modules else importlib.util.find_spec(name)
        if spec:
            sys.modules[name] = module = importlib.util.module_from_spec(spec)
            module.__class__ = _Later
            parent, _, child = name.rpartition(".")
            if parent:
                setattr(sys.modules[parent], child, module)
    if not any(isinstance(finder, _Submodules) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Submodules())
