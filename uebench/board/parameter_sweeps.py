"""Finds breakers that differ in one numeric parameter only: the points of a curve over that parameter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from uebench.components.grammar import parse_label, split_outside_parentheses
from uebench.components.registry import idle_component, registry


@dataclass(frozen=True)
class BreakerFamily:
    """Chains of breakers that differ in one numeric parameter only.

    `values` maps the canonical text of each chain to the parameter's value. `idle` maps the chain without the breaker
    to the parameter's neutral value; it is empty where there is none or `values` has it. `label` is the chain's label
    without the parameter. `axis` describes the parameter.
    """

    label: str
    breaker: str
    parameter: str
    values: Mapping[str, float]
    idle: Mapping[str, float]
    axis: str


def breaker_families(chains: Mapping[str, str]) -> list[BreakerFamily]:
    """Return the families of two or more chains; `chains` maps canonical texts to labels."""
    families: dict[tuple[Any, ...], dict[str, float]] = {}
    for chain in sorted(chains):
        breakers = split_outside_parentheses(chain, "+")
        for index, breaker in enumerate(breakers):
            name, parameters = parse_label(breaker)
            other_breakers = (*breakers[:index], *breakers[index + 1 :])
            for key, value in parameters.items():
                if (number := _parse_number(value)) is not None:
                    other_parameters = tuple(parameter for parameter in parameters.items() if parameter[0] != key)
                    family = name, key, index, other_breakers, other_parameters
                    families.setdefault(family, {})[chain] = number
    return [
        _make_family(name.partition("@")[0], key, index, other_breakers, values, chains[min(values)])
        for (name, key, index, other_breakers, _), values in sorted(families.items())
        if len(values) > 1
    ]


def _make_family(
    breaker: str, key: str, index: int, other_breakers: Sequence[str], values: dict[str, float], label: str
) -> BreakerFamily:
    """Return a family, with the description of its parameter if its plug-in is installed.

    `label` is the label of one of its chains, `index` the position of the breaker in it.
    """
    labels = split_outside_parentheses(label, "+")
    name, parameters = parse_label(labels[index])
    other_parameters = ",".join(f"{other}={value}" for other, value in parameters.items() if other != key)
    labels[index] = f"{name}:{other_parameters}" if other_parameters else name
    entry = registry().entries["breaker"].get(breaker)
    metadata = {field.name: field.metadata for field in fields(entry.cls)} if entry else {}  # type: ignore[arg-type]
    description: Mapping[str, Any] = metadata.get(key, {})
    neutral, doc, unit = (description.get(name) for name in ("neutral", "doc", "unit"))
    idle: dict[str, float] = {}
    if neutral is not None and neutral not in values.values():
        idle["+".join(other_breakers) or idle_component("breaker")] = neutral
    axis = (doc or f"{key} of {breaker}") + (f" ({unit})" if unit else "")
    return BreakerFamily("+".join(labels), breaker, key, values, idle, axis)


def _parse_number(text: str) -> float | None:
    """Return the number that a text stands for; None if it is not a finite number."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
