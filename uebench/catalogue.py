"""Prints what is registered: components, where they come from, their parameters, and what was left out."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from rich.console import Console
from rich.markup import escape

from uebench import display, spec
from uebench.component import Component
from uebench.kinds import component_kind
from uebench.registry import Entry, registry

if TYPE_CHECKING:
    from uebench.trial import Finding


def overview(console: Console) -> None:
    """Print every component in a line, then what was left out."""
    for kind, entries in registry().entries.items():
        rows = [[name, _summary(entry), _origin(entry)] for name, entry in sorted(entries.items())]
        display.show(console, f"{kind}s", ["name", "what it is", "from"], rows)
    if registry().problems:
        rows = [[problem.plugin, problem.reason, problem.distribution] for problem in registry().problems]
        display.show(console, "left out", ["plug-in", "why", "from"], rows)


def describe(console: Console, name: str) -> None:
    """Print all about the components of a name; raises `UserError` where there is none."""
    for entry in registry().named(name):
        console.print(
            f"[bold]{entry.kind} {entry.cls.name}[/] version {entry.cls.version}, from {escape(_origin(entry))}"
        )
        console.print(escape(inspect.cleandoc(entry.cls.__doc__ or "no description")), highlight=False)
        console.print(escape(f"Paper: {entry.cls.paper or 'not stated'}"), highlight=False)
        rows = [_parameter(entry, one) for one in fields(entry.cls)]  # type: ignore[arg-type]
        if rows:
            display.show(console, "parameters", ["name", "meaning", "type", "default", "unit", "range"], rows)


def _parameter(entry: Entry, one: Any) -> list[str]:
    kind, meta = spec.kinds(entry.cls)[one.name], one.metadata
    choices = " | ".join(get_args(kind)) if get_origin(kind) is Literal else component_kind(kind) or kind.__name__
    choices = f"{choices}/..." if get_origin(kind) is tuple else choices
    default = "required" if one.default is MISSING else spec.text(one.default, exact=False)
    bounds = [f"> {meta['above']:g}"] if meta.get("above") is not None else []
    bounds += [f">= {meta['low']:g}"] if meta.get("low") is not None else []
    bounds += [f"<= {meta['high']:g}"] if meta.get("high") is not None else []
    return [one.name, meta.get("doc", ""), choices, default, meta.get("unit", ""), ", ".join(bounds)]


def _summary(entry: Entry) -> str:
    return inspect.cleandoc(entry.cls.__doc__ or "").partition("\n")[0] or "no description"


def _origin(entry: Entry) -> str:
    return f"{entry.distribution} {entry.release:.19}"  # a file's version is a hash


def show_findings(console: Console, kind: str, component: Component, findings: list[Finding]) -> None:
    """Print the findings as a table."""
    rows = [["pass" if one.kept else "FAIL", one.rule, "" if one.kept else one.advice] for one in findings]
    display.show(console, f"{kind} {spec.label(component)}", ["", "rule", "what to do"], rows)
