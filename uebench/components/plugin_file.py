"""Plug-ins that are single files: read once, then loaded from that content, here and in every worker."""

from __future__ import annotations

import hashlib
import sys
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from uebench.components.errors import UserError


@dataclass(frozen=True)
class PluginFile:
    """A Python file and its content, so that an edit during a run changes nothing in workers that start later."""

    path: Path
    content: bytes = field(repr=False)

    @property
    def name(self) -> str:
        """The name of the file, which records state as the origin of its components."""
        return self.path.name

    @property
    def release(self) -> str:
        """The version of its components in records: a hash of the content."""
        return f"sha256:{hashlib.sha256(self.content).hexdigest()}"

    @property
    def module(self) -> str:
        """The module's name: that of no package, and without a dot, as pickle would look for a package."""
        return f"uebench_file_{self.path.stem.replace('.', '_')}"

    def load(self) -> ModuleType:
        """Import the content; raises `UserError`."""
        try:
            code = compile(self.content, self.path, "exec", dont_inherit=True)
        except SyntaxError as error:
            raise UserError(f"plug-in file {self.path} is not Python: {error.msg} (line {error.lineno})") from None
        except ValueError as error:
            raise UserError(f"plug-in file {self.path} is not Python: {error}") from None
        module = ModuleType(self.module)
        module.__file__ = str(self.path)
        sys.modules[self.module] = module  # where pickle and dataclasses look for it
        try:
            exec(code, vars(module))
        except (Exception, SystemExit) as error:
            del sys.modules[self.module]
            lines = [
                frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == module.__file__
            ]
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(f"plug-in file {self.path}, line {lines[-1]}: {reason}") from None
        return module


def read_plugin_file(path: Path) -> PluginFile:
    """Return a plug-in file; raises `UserError` where it cannot be read."""
    try:
        return PluginFile(path.resolve(), path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read plug-in file {path}: {error.strerror}") from None
