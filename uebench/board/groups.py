"""Groups comparable results; gives the required components of a suite and the budget class of a noise."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from uebench.components.chain_classes import chain_threat
from uebench.components.errors import UserError
from uebench.components.interfaces import THREATS, Threat
from uebench.components.registry import idle_component, registry
from uebench.components.spec import canonical_text, chain_text
from uebench.planning.selection import build_chain, chain_label_in_suite, label_in_suite
from uebench.planning.suite import Suite
from uebench.storage.result import Result

BUDGET_BOUNDS = (8, 16, 32)
"""L-inf budget classes, in 1/255."""
BUDGET_CLASSES = (*(f"L-inf {bound}/255" for bound in BUDGET_BOUNDS), "L2", "L0", "unbounded")
"""Budget classes in the order of tables; each is ranked separately."""


def budget_class(norm: str, linf: float) -> str:
    """Return the budget class of a noise by its norm and `linf`, its largest change measured on the 8-bit images."""
    if norm in ("l2", "l0"):
        return norm.upper()
    for bound, name in zip(BUDGET_BOUNDS, BUDGET_CLASSES, strict=False):
        if norm == "linf" and round(linf * 255) <= bound:  # changes of 8-bit images are multiples of 1/255
            return name
    return BUDGET_CLASSES[-1]


def comparable_groups(results: Iterable[Result]) -> list[list[Result]]:
    """Return the groups of results with the same data set, recipe, protected share and kind.

    The clean set is the reference for every share: its results are also in the groups of smaller shares.
    """
    groups = dict[tuple[Any, ...], list[Result]]()
    for result in sorted(results, key=lambda result: result.key):
        texts = result.parameters
        key = (texts["dataset"], texts["content"], texts["recipe"], result.kind, -result.protected)
        groups.setdefault(key, []).append(result)
    for *setting, kind, negative_share in sorted(groups):
        if kind == "mixed" and negative_share > -1:
            full_share = groups.get((*setting, kind, -1.0), [])
            groups[*setting, kind, negative_share] += [
                result for result in full_share if result.parameters["noise"] == idle_component("noise")
            ]
    return [groups[key] for key in sorted(groups)]


def limit_threat(suite: Suite, results: Iterable[Result], threat: Threat) -> tuple[Suite, list[Result]]:
    """Return a suite and its results with only the breakers of a threat class or a weaker one.

    Stronger required breakers are then not required. Breakers of unknown class are left out. Raises `UserError` if no
    required breaker is left.
    """
    allowed = THREATS[: THREATS.index(threat) + 1]

    def limit_required(part: Suite) -> Suite:
        required = [
            text for text in part.required_breakers if chain_threat(chain_text(build_chain(part, text))) in allowed
        ]
        if part.required_breakers and not required:
            raise UserError(f"suite {suite.name} has no required breaker of threat class {threat!r} or weaker")
        return replace(part, required_breakers=required, grids=[limit_required(grid) for grid in part.grids])

    kept = [result for result in results if chain_threat(result.parameters["breaker"]) in allowed]
    return limit_required(suite), kept


def group_setting(result: Result) -> str:
    """Return the data set and protected share of a group, in words."""
    return result.dataset + ("" if result.protected == 1 else f", {result.protected:.0%} protected ({result.kind})")


def group_title(result: Result) -> str:
    """Return the data set, protected share and recipe of a group, in words."""
    return f"{group_setting(result)}, recipe {result.recipe}"


def required_labels(part: Suite) -> tuple[dict[str, str], dict[str, str]]:
    """Return the labels of a suite's required breakers and of its required targets, each by canonical text."""
    chains = [build_chain(part, text) for text in part.required_breakers]
    breakers = {
        "+".join(canonical_text(breaker) for breaker in chain): chain_label_in_suite(part, chain) for chain in chains
    }
    targets = [registry().build("target", text, part.defaults) for text in part.required_targets]
    return breakers, {canonical_text(target): label_in_suite(part, "target", target) for target in targets}
