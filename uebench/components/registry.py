"""Finds plug-ins through their entry points, looks components up by name, and reports what is broken."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, get_origin

import pluggy

from uebench.components import hookspecs
from uebench.components.component import Component
from uebench.components.errors import UserError
from uebench.components.grammar import nearest_match, parse_component, split_components
from uebench.components.kinds import HOOKS, KINDS, advise_plugin, component_kind, find_flaw, interface_problem
from uebench.components.plugin_file import PluginFile
from uebench.components.spec import canonical_text, convert_value, parameter_types

ENTRY_POINT_GROUP = "uebench"


@dataclass(frozen=True)
class RegisteredComponent:
    """A registered component class and where it comes from."""

    cls: type[Component]
    kind: str
    distribution: str
    release: str


@dataclass(frozen=True)
class PluginProblem:
    """A plug-in, or a component of one, that was left out, and why."""

    plugin: str
    distribution: str
    reason: str


class Registry:
    """Every component that could be loaded, by kind and name, and every problem with the others."""

    def __init__(self) -> None:
        self.entries: dict[str, dict[str, RegisteredComponent]] = {kind: {} for kind in KINDS}
        self.problems: list[PluginProblem] = []
        self.files: list[PluginFile] = []

    def load(self, point: importlib.metadata.EntryPoint) -> None:
        """Load one entry point; an error in it becomes a problem and stops nothing else."""
        self._admit(point.load, f"{point.name} = {point.value}", *_release(point.dist))

    def add(self, file: PluginFile) -> None:
        """Load a plug-in file that the user names; raises `UserError` for any error in it."""
        if file in self.files:
            return
        for loaded in self.files:
            if loaded.module == file.module:
                raise UserError(f"two plug-in files have the same name; rename {loaded.path} or {file.path}")
        module, before = file.load(), len(self.problems)
        admitted = self._admit(lambda: module, file.name, file.name, file.release)
        reasons = [problem.reason for problem in self.problems[before:]]
        if not admitted and not reasons:
            reasons = ["its hooks return no component"]
        if reasons:
            raise UserError(f"plug-in file {file.path}: {'; '.join(reasons)}")
        self.files.append(file)

    def _admit(self, load: Callable[[], object], plugin: str, name: str, release: str) -> int:
        """Register the components that the hooks of a plug-in return, and record problems; returns their number."""

        def refuse(reason: str) -> None:
            self.problems.append(PluginProblem(plugin, name, reason))

        manager = pluggy.PluginManager(ENTRY_POINT_GROUP)
        manager.add_hookspecs(hookspecs)
        try:
            module = load()
            if problem := interface_problem(module):
                refuse(problem)
                return 0
            manager.register(module, plugin)
            implemented = {name for name in HOOKS if getattr(manager.hook, name).get_hookimpls()}
            unknown = [name for name in vars(manager.hook) if not name.startswith("_") and name not in HOOKS]
            for hook in unknown:
                refuse(f"there is no hook {hook}{nearest_match(hook, HOOKS)}")
            if not implemented and not unknown:
                refuse(f"it implements no hook{advise_plugin(module)}")
            returned = [
                (HOOKS[hook], cls) for hook in HOOKS for classes in getattr(manager.hook, hook)() for cls in classes
            ]
        except (Exception, SystemExit) as error:  # foreign code may raise anything
            refuse(f"{type(error).__name__}: {error}")
            return 0
        admitted = 0
        for kind, cls in returned:
            reason = find_flaw(cls, kind)
            if not reason and cls.name in self.entries[kind]:
                other = self.entries[kind][cls.name]
                reason = f"the {kind} name {cls.name} is taken by {other.distribution} {other.release}"
            if reason:
                refuse(reason)
            else:
                self.entries[kind][cls.name] = RegisteredComponent(cls, kind, name, release)
                admitted += 1
        return admitted

    def find(self, kind: str, name: str) -> RegisteredComponent:
        """Return the component of a kind and name; raises `UserError` with the nearest match and the problems."""
        if name not in self.entries[kind]:
            raise UserError(f"unknown {kind} {name!r}{nearest_match(name, self.entries[kind])}{self._left_out()}")
        return self.entries[kind][name]

    def named(self, name: str) -> list[RegisteredComponent]:
        """Return the components of a name, of every kind; raises `UserError` like `find`."""
        named = [entries[name] for entries in self.entries.values() if name in entries]
        if not named:
            known = {name for entries in self.entries.values() for name in entries}
            raise UserError(f"no component is called {name!r}{nearest_match(name, known)}{self._left_out()}")
        return named

    def _left_out(self) -> str:
        return "".join(f"; left out: {problem.plugin}: {' '.join(problem.reason.split())}" for problem in self.problems)

    def build(
        self, kind: str, text: str, usual: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None
    ) -> Component:
        """Turn `name:key=value,...` into a component; raises `UserError`.

        `usual` gives other defaults than the class's, as `{kind: {name or "*": {parameter: value}}}`.
        """
        name, given = parse_component(text)
        cls = self.find(kind, name).cls
        types = parameter_types(cls)
        for key in given:
            if key not in types:
                raise UserError(f"{kind} {name} has no parameter {key!r}{nearest_match(key, types)}")
        values = {**self.usual(kind, name, usual), **given}
        arguments: dict[str, Any] = {}
        for field in fields(cls):  # type: ignore[arg-type]
            if field.name not in values and field.default is MISSING:
                raise UserError(f"{kind} {name} needs {field.name}=... ({field.metadata.get('doc', 'no default')})")
            value = values.get(field.name, field.default)
            if field.name in values or component_kind(types[field.name]):
                value = self._value(f"{kind} {name}", field.name, types[field.name], value, usual)
            arguments[field.name] = value
        return cls(**arguments)

    def _value(
        self,
        owner: str,
        key: str,
        annotation: Any,
        value: Any,
        usual: Mapping[str, Mapping[str, Mapping[str, Any]]] | None,
    ) -> Any:
        """Return the value of a parameter, usually given as text, in the type of its annotation; raises `UserError`."""
        inner = component_kind(annotation)
        if not inner:
            return convert_value(owner, key, annotation, value)
        if not isinstance(value, str):
            return value
        if get_origin(annotation) is tuple:
            return tuple(self.build(inner, part, usual) for part in split_components(owner, key, value))
        return self.build(inner, value, usual)

    def usual(
        self, kind: str, name: str, usual: Mapping[str, Mapping[str, Mapping[str, Any]]] | None
    ) -> dict[str, Any]:
        """Return the values that a suite sets for a component; those under `*` only where it has the parameter."""
        types = parameter_types(self.find(kind, name).cls)
        tables = (usual or {}).get(kind, {})
        common = {key: value for key, value in tables.get("*", {}).items() if key in types}
        values = {**common, **tables.get(name, {})}
        for key in values:
            if key not in types:
                raise UserError(f"{kind} {name} has no parameter {key!r}{nearest_match(key, types)}")
        return {key: self._value(f"{kind} {name}", key, types[key], value, usual) for key, value in values.items()}

    def origin(self, component: Component) -> tuple[str, str]:
        """Return distribution and release of a component's class."""
        for table in self.entries.values():
            for entry in table.values():
                if entry.cls is type(component):
                    return entry.distribution, entry.release
        return "unregistered", "?"


@cache
def _release(distribution: importlib.metadata.Distribution | None) -> tuple[str, str]:
    """Return name and version of a distribution; cached, as each access reads its metadata."""
    return (distribution.name, distribution.version) if distribution else ("?", "?")


def plugin_entry_points() -> list[importlib.metadata.EntryPoint]:
    """Return every entry point of the group, the engine's own distribution first, then by name."""
    points = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)

    def order(point: importlib.metadata.EntryPoint) -> tuple[bool, str, str]:
        owner, _ = _release(point.dist)
        return owner != ENTRY_POINT_GROUP, owner, point.name

    return sorted(points, key=order)


def plugin_folders(name: str) -> list[Path]:
    """Return the folders of that name in the plug-ins' top-level packages, without importing them."""
    packages = dict.fromkeys(point.value.partition(":")[0].partition(".")[0] for point in plugin_entry_points())
    folders = []
    for package in packages:
        try:
            spec = importlib.util.find_spec(package)
        except (ImportError, ValueError):
            continue
        folders += [Path(folder) / name for folder in (spec and spec.submodule_search_locations) or []]
    return [folder for folder in folders if folder.is_dir()]


@cache
def registry() -> Registry:
    """Return the registry of this process, loading every plug-in the first time."""
    components = Registry()
    seen = set()
    for point in plugin_entry_points():
        if (point.name, point.value) not in seen:  # a stale copy of the metadata lists them twice
            seen.add((point.name, point.value))
            components.load(point)
    return components


@cache
def idle_component(kind: str) -> str:
    """Return the canonical text of the component of a kind that does nothing, the only one the engine knows."""
    return canonical_text(registry().build(kind, "none"))
