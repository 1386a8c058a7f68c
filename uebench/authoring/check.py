"""Check whether a component keeps its contract: for `uebench check`, and for the tests of a plug-in."""

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
from uebench.planning.suite import DEFAULT_SUITE, Suite
from uebench.planning.suite_file import read_suite


def assert_contract(text: str, suite: str = DEFAULT_SUITE) -> None:
    """Raise `AssertionError` that lists every rule a component breaks, with advice; a test needs only this call.

    `text` is `name` or `name:key=value,...`, of any kind. Other parameters have the defaults of `suite`, a name or the
    path of a TOML file. Raises `UserError` if there is no such component.
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
    """Return every component that a specification names, of any kind; raises `UserError` if there is none."""
    name, _ = parse_component(text)
    return [(entry.kind, registry().build(entry.kind, text, suite.defaults)) for entry in registry().named(name)]


def check_component(kind: str, component: Component) -> list[Finding]:
    """Return a finding for every rule for a component of this kind: `noise`, `breaker`, `target` or `dataset`.

    No rule forbids a noise to use test data, because its context and the memory of the process contain none.
    """
    find, use_on_device = RULES_BY_KIND[kind]
    findings: list[Finding] = []
    try:
        findings.extend(find(component))
    except Exception as error:
        findings.append(Finding("runs", False, _error_text(component, error)))
    if all(finding.kept for finding in findings):  # a component that fails on the CPU also fails here
        findings.append(_device_finding(component, use_on_device))
    return [*general_findings(component), *findings]


def _device_finding(component: Component, attempt: Callable[[Any, torch.device], object]) -> Finding:
    """Try a component on images that are not on the default device of new tensors."""
    reason = ""
    try:
        with simulated_device() as device:
            attempt(component, device)
    except Exception as error:
        reason = f"create tensors with device=images.device; {_error_text(component, error)}"
    return Finding("follows its images to another device", not reason, reason)


def _error_text(component: Component, error: Exception) -> str:
    """Return an error as one line, with the last line of the component's own file in its traceback."""
    file = getattr(sys.modules.get(type(component).__module__), "__file__", None)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    where = f" ({Path(str(file)).name}, line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {error}{where}"
