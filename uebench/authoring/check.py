"""Checks a component against the contract: for the command line, and for the tests of a plug-in."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from uebench.authoring.fake_device import simulated_device
from uebench.authoring.rules import RULES_BY_KIND, general_findings
from uebench.authoring.sample_run import Finding
from uebench.components.component import Component
from uebench.components.grammar import parse_component
from uebench.components.registry import registry
from uebench.components.spec import component_label
from uebench.planning.suite import DEFAULT_SUITE, Suite, read_suite


def assert_contract(text: str, suite: str = DEFAULT_SUITE) -> None:
    """Raise `AssertionError` with every rule that a component breaks and what to do; all that a plug-in's test needs.

    `text` is `name` or `name:key=value,...`, of whatever kind; what it leaves out is as in `suite`, a name or the path
    of a TOML file. Raises `UserError` where there is no such component.
    """
    broken = [
        f"{kind} {component_label(component)}: {finding.rule}: {finding.advice}"
        for kind, component in find_components(text, read_suite(suite))
        for finding in check_component(kind, component)
        if not finding.kept
    ]
    if broken:
        raise AssertionError("\n".join(broken))


def find_components(text: str, suite: Suite) -> list[tuple[str, Component]]:
    """Return every component that a specification names, of whatever kind; raises `UserError` where there is none."""
    name, _ = parse_component(text)
    return [(entry.kind, registry().build(entry.kind, text, suite.defaults)) for entry in registry().named(name)]


def check_component(kind: str, component: Component) -> list[Finding]:
    """Return what came of every rule for a component of this kind: `noise`, `breaker`, `target` or `dataset`.

    No rule says that a noise sees no test data: there is none in the context that it is lent, nor in memory meanwhile.
    """
    here, there = RULES_BY_KIND[kind]
    findings: list[Finding] = []
    try:
        findings.extend(here(component))
    except Exception as error:
        findings.append(Finding("runs", False, _told(component, error)))
    if all(finding.kept for finding in findings):  # only what works on one device is worth a try on another
        findings.append(_elsewhere(component, there))
    return [*general_findings(component), *findings]


def _elsewhere(component: Component, attempt: Callable[[Any, torch.device], object]) -> Finding:
    """Try a component where its images are on another device than what is created without saying where."""
    reason = ""
    try:
        with simulated_device() as device:
            attempt(component, device)
    except Exception as error:
        reason = f"create tensors with device=images.device; {_told(component, error)}"
    return Finding("follows its images to another device", not reason, reason)


def _told(component: Component, error: Exception) -> str:
    """Return an error in a line, with the last line of the component's own file that it went through."""
    file = getattr(sys.modules.get(type(component).__module__), "__file__", None)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    where = f" ({Path(str(file)).name}, line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {error}{where}"
