"""Lists registered components and suites: their origin, parameters and lists, and what was left out and why."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields
from itertools import product
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from rich.console import Console
from rich.markup import escape

from uebench.cli.console import print_table
from uebench.components.component import Component
from uebench.components.interfaces import Breaker
from uebench.components.kinds import component_kind
from uebench.components.registry import RegisteredComponent, registry
from uebench.components.spec import component_label, format_value, parameter_types
from uebench.planning.suite import Suite
from uebench.planning.suite_file import available_suites, read_suite

if TYPE_CHECKING:
    from uebench.authoring.sample_run import Finding


PARAMETER_COLUMNS = ["name", "meaning", "type", "default", "unit", "range"]
LISTS = ("datasets", "noises", "breakers", "targets", "protected")


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
        if threat := _threat(entry):
            console.print(f"Threat class: {threat}", highlight=False)
        rows = [_parameter(entry, field) for field in fields(entry.cls)]  # type: ignore[arg-type]
        if rows:
            print_table(console, "parameters", PARAMETER_COLUMNS, rows)


def components_document(name: str | None) -> dict[str, Any]:
    """Return for JSON all about every component, or about those of a name; raises `UserError` where there is none."""
    kinds = registry().entries.values()
    entries = registry().named(name) if name else [entry for kind in kinds for entry in kind.values()]
    return {
        "components": [_component_document(entry) for entry in entries],
        "left_out": [] if name else registry().problems,
    }


def _component_document(entry: RegisteredComponent) -> dict[str, Any]:
    rows = [_parameter(entry, field) for field in fields(entry.cls)]  # type: ignore[arg-type]
    return {
        "kind": entry.kind,
        "name": entry.cls.name,
        "version": entry.cls.version,
        "summary": _summary(entry),
        "description": inspect.cleandoc(entry.cls.__doc__ or ""),
        "paper": entry.cls.paper,
        "threat": _threat(entry),
        "distribution": entry.distribution,
        "distribution_version": entry.release,
        "parameters": [dict(zip(PARAMETER_COLUMNS, row, strict=True)) for row in rows],
    }


def _threat(entry: RegisteredComponent) -> str | None:
    """Return the threat class of a breaker, None for another kind."""
    return entry.cls.threat if issubclass(entry.cls, Breaker) else None


def print_suites(console: Console) -> None:
    """Print every suite in a line."""
    rows = [[suite["name"], suite["title"], str(suite["cells"])] for suite in suites_document()]
    print_table(console, "suites", ["name", "what it is", "cells"], rows)


def suites_document() -> list[dict[str, Any]]:
    """Return for JSON every suite: its lists, and `cells`, the number of networks that a whole run trains."""
    return [_suite_document(read_suite(name)) for name in sorted(available_suites())]


def _suite_document(suite: Suite) -> dict[str, Any]:
    lists = {name: [value for part in suite.parts for value in getattr(part, name)] for name in LISTS}
    return {
        "name": suite.name,
        "title": suite.title,
        **{name: list(dict.fromkeys(values)) for name, values in lists.items()},
        "seeds": suite.seeds,
        "required_breakers": suite.required_breakers,
        "cells": sum(len(_listed_cells(part)) for part in suite.parts) * len(suite.seeds),
    }


def _listed_cells(part: Suite) -> set[tuple[Any, ...]]:
    """Return the cells of a cross product, by name; a plan would need the data sets themselves."""
    whole = ("none", 1.0)
    noises = set(product(part.noises, part.protected))
    if part.kind == "mixed":  # unprotected images beside images without a noise: all are clean
        noises = {whole if name == "none" else (name, share) for name, share in noises}
    pairs = set(product(noises, part.breakers))
    if part.references:
        pairs |= set(product([whole], part.breakers)) | set(product(noises | {whole}, ["none"]))
    return set(product(part.datasets, pairs, part.targets))


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
