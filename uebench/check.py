"""Checks a component against the contract: for the command line, and for the tests of a plug-in."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from uebench import contract, elsewhere, grammar, spec
from uebench.component import Component
from uebench.registry import registry
from uebench.suite import DEFAULT, Suite, read
from uebench.trial import Finding


def assert_contract(text: str, suite: str = DEFAULT) -> None:
    """Raise `AssertionError` with every rule that a component breaks and what to do; all that a plug-in's test needs.

    `text` is `name` or `name:key=value,...`, of whatever kind; what it leaves out is as in `suite`, a name or the path
    of a TOML file. Raises `UserError` where there is no such component.
    """
    broken = [
        f"{kind} {spec.label(component)}: {one.rule}: {one.advice}"
        for kind, component in find(text, read(suite))
        for one in check(kind, component)
        if not one.kept
    ]
    if broken:
        raise AssertionError("\n".join(broken))


def find(text: str, suite: Suite) -> list[tuple[str, Component]]:
    """Return every component that a specification names, of whatever kind; raises `UserError` where there is none."""
    name, _ = grammar.parse(text)
    return [(one.kind, registry().build(one.kind, text, suite.defaults)) for one in registry().named(name)]


def check(kind: str, component: Component) -> list[Finding]:
    """Return what came of every rule for a component of this kind: `noise`, `breaker`, `target` or `dataset`.

    No rule says that a noise sees no test data: there is none in the context that it is lent, nor in memory meanwhile.
    """
    here, there = contract.RULES[kind]
    findings: list[Finding] = []
    try:
        findings.extend(here(component))
    except Exception as error:
        findings.append(Finding("runs", False, _told(component, error)))
    if all(one.kept for one in findings):  # only what works on one device is worth a try on another
        findings.append(_elsewhere(component, there))
    return [*contract.anything(component), *findings]


def _elsewhere(component: Component, attempt: Callable[[Any, torch.device], object]) -> Finding:
    """Try a component where its images are on another device than what is created without saying where."""
    reason = ""
    try:
        with elsewhere.device() as device:
            attempt(component, device)
    except Exception as error:
        reason = f"create tensors with device=images.device; {_told(component, error)}"
    return Finding("follows its images to another device", not reason, reason)


def _told(component: Component, error: Exception) -> str:
    """Return an error in a line, with the last line of the component's own file that it went through."""
    file = getattr(sys.modules.get(type(component).__module__), "__file__", None)
    lines = [one.lineno for one in traceback.extract_tb(error.__traceback__) if one.filename == file]
    where = f" ({Path(str(file)).name}, line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {error}{where}"
