"""Finds breakers that differ in one number only, so that a curve over that number can be drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from uebench.components.grammar import parse_label, split_outside_parentheses
from uebench.components.registry import idle_component, registry


@dataclass(frozen=True)
class BreakerFamily:
    """Chains of breakers that differ in one number only.

    `values` has the number by the canonical text of the chain. `idle` has the neutral value of the parameter, if it has
    one that is not among `values`, by the text of the chain without the breaker. `label` is the chain without the
    number.
    """

    label: str
    breaker: str
    parameter: str
    values: Mapping[str, float]
    idle: Mapping[str, float]
    axis: str


def breaker_families(chains: Mapping[str, str]) -> list[BreakerFamily]:
    """Return the families of two or more of some chains; `chains` has labels by canonical text."""
    families: dict[tuple[Any, ...], dict[str, float]] = {}
    for chain in sorted(chains):
        members = split_outside_parentheses(chain, "+")
        for index, member in enumerate(members):
            head, parameters = parse_label(member)
            others = (*members[:index], *members[index + 1 :])
            for key, value in parameters.items():
                if (number := _number(value)) is not None:
                    rest = tuple(parameter for parameter in parameters.items() if parameter[0] != key)
                    families.setdefault((head, key, index, others, rest), {})[chain] = number
    return [
        _family(head.partition("@")[0], key, index, others, values, chains[min(values)])
        for (head, key, index, others, _), values in sorted(families.items())
        if len(values) > 1
    ]


def _family(
    breaker: str, key: str, index: int, others: Sequence[str], values: dict[str, float], label: str
) -> BreakerFamily:
    """Return a family, with the description of its parameter if its plug-in is installed."""
    labels = split_outside_parentheses(label, "+")
    head, shown = parse_label(labels[index])
    kept = ",".join(f"{name}={value}" for name, value in shown.items() if name != key)
    labels[index] = f"{head}:{kept}" if kept else head
    entry = registry().entries["breaker"].get(breaker)
    declared = {field.name: field.metadata for field in fields(entry.cls)} if entry else {}  # type: ignore[arg-type]
    about: Mapping[str, Any] = declared.get(key, {})
    neutral, doc, unit = (about.get(name) for name in ("neutral", "doc", "unit"))
    idle = (
        {}
        if neutral is None or neutral in values.values()
        else {"+".join(others) or idle_component("breaker"): neutral}
    )
    axis = (doc or f"{key} of {breaker}") + (f" ({unit})" if unit else "")
    return BreakerFamily("+".join(labels), breaker, key, values, idle, axis)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
