"""Prints registered components, their origin and parameters, and what was left out and why."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from rich.console import Console
from rich.markup import escape

from uebench.cli.console import print_table
from uebench.components.component import Component
from uebench.components.kinds import component_kind
from uebench.components.registry import RegisteredComponent, registry
from uebench.components.spec import component_label, format_value, parameter_types

if TYPE_CHECKING:
    from uebench.authoring.sample_run import Finding


def print_overview(console: Console) -> None:
    """Print every component in a line, then what was left out."""
    for kind, entries in registry().entries.items():
        rows = [[name, _summary(entry), _origin(entry)] for name, entry in sorted(entries.items())]
        print_table(console, f"{kind}s", ["name", "what it is", "from"], rows)
    if registry().problems:
        rows = [[problem.plugin, problem.reason, problem.distribution] for problem in registry().problems]
        print_table(console, "left out", ["plug-in", "why", "from"], rows)


def print_components(console: Console, name: str) -> None:
    """Print all about the components of a name; raises `UserError` where there is none."""
    for entry in registry().named(name):
        console.print(
            f"[bold]{entry.kind} {entry.cls.name}[/] version {entry.cls.version}, from {escape(_origin(entry))}"
        )
        console.print(escape(inspect.cleandoc(entry.cls.__doc__ or "no description")), highlight=False)
        console.print(escape(f"Paper: {entry.cls.paper or 'not stated'}"), highlight=False)
        rows = [_parameter(entry, field) for field in fields(entry.cls)]  # type: ignore[arg-type]
        if rows:
            print_table(console, "parameters", ["name", "meaning", "type", "default", "unit", "range"], rows)


def _parameter(entry: RegisteredComponent, field: Any) -> list[str]:
    kind, meta = parameter_types(entry.cls)[field.name], field.metadata
    choices = " | ".join(get_args(kind)) if get_origin(kind) is Literal else component_kind(kind) or kind.__name__
    choices = f"{choices}/..." if get_origin(kind) is tuple else choices
    default = "required" if field.default is MISSING else format_value(field.default, exact=False)
    bounds = [f"> {meta['above']:g}"] if meta.get("above") is not None else []
    bounds += [f">= {meta['low']:g}"] if meta.get("low") is not None else []
    bounds += [f"<= {meta['high']:g}"] if meta.get("high") is not None else []
    return [field.name, meta.get("doc", ""), choices, default, meta.get("unit", ""), ", ".join(bounds)]


def _summary(entry: RegisteredComponent) -> str:
    return inspect.cleandoc(entry.cls.__doc__ or "").partition("\n")[0] or "no description"


def _origin(entry: RegisteredComponent) -> str:
    return f"{entry.distribution} {entry.release:.19}"  # a file's version is a hash


def show_findings(console: Console, kind: str, component: Component, findings: list[Finding]) -> None:
    """Print the findings as a table."""
    rows = [
        ["pass" if finding.kept else "FAIL", finding.rule, "" if finding.kept else finding.advice]
        for finding in findings
    ]
    print_table(console, f"{kind} {component_label(component)}", ["", "rule", "what to do"], rows)
