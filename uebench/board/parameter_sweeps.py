"""Finds the breakers on record that differ in one number alone: a curve over that number can be drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from uebench.components.grammar import parse_label, split_outside_parentheses
from uebench.components.registry import idle_component, registry


@dataclass(frozen=True)
class BreakerFamily:
    """Chains of breakers that differ in one number alone.

    `values` has that number by the canonical text of the chain; `idle`, where the parameter has a neutral value that is
    not among them, that value by the text of the chain without the breaker. `label` is the chain without the number.
    """

    label: str
    breaker: str
    parameter: str
    values: Mapping[str, float]
    idle: Mapping[str, float]
    axis: str


def breaker_families(chains: Mapping[str, str]) -> list[BreakerFamily]:
    """Return the families of two chains or more among some chains, given by canonical text with their labels."""
    found: dict[tuple[Any, ...], dict[str, float]] = {}
    for chain in sorted(chains):
        members = split_outside_parentheses(chain, "+")
        for place, member in enumerate(members):
            head, parameters = parse_label(member)
            others = (*members[:place], *members[place + 1 :])
            for key, value in parameters.items():
                if (number := _number(value)) is not None:
                    rest = tuple(parameter for parameter in parameters.items() if parameter[0] != key)
                    found.setdefault((head, key, place, others, rest), {})[chain] = number
    return [
        _family(head.partition("@")[0], key, place, others, values, chains[min(values)])
        for (head, key, place, others, _), values in sorted(found.items())
        if len(values) > 1
    ]


def _family(
    breaker: str, key: str, place: int, others: Sequence[str], values: dict[str, float], label: str
) -> BreakerFamily:
    """Return a family with what its parameter's declaration says, where that plug-in is installed."""
    labels = split_outside_parentheses(label, "+")
    head, shown = parse_label(labels[place])
    kept = ",".join(f"{name}={value}" for name, value in shown.items() if name != key)
    labels[place] = f"{head}:{kept}" if kept else head
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
