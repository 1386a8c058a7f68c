"""Tells from the text of a chain of breakers what its trainer must have, and in which year it was published.

A record has only the canonical texts of its breakers, so both come from the installed classes of these names.
"""

from __future__ import annotations

import re
from typing import cast

from uebench.components.errors import UserError
from uebench.components.grammar import parse_component, split_components, split_outside_parentheses
from uebench.components.interfaces import THREATS, Breaker, Threat
from uebench.components.kinds import component_kind
from uebench.components.registry import registry
from uebench.components.spec import parameter_types

YEAR_PATTERN = re.compile(r"\b(?:19|20)\d\d\b")


def chain_classes(text: str) -> list[type[Breaker]] | None:
    """Return the classes of a chain's members, given its canonical text, and of the breakers among their parameters.

    None if one of them is not installed here, or if the text cannot be read. The version of a class does not matter.
    """
    classes = list[type[Breaker]]()
    try:
        for member in split_outside_parentheses(text, "+"):
            name, _, rest = member.partition("@")
            _, colon, values = rest.partition(":")
            entry = registry().entries["breaker"].get(name)
            if entry is None:
                return None
            classes.append(cast(type[Breaker], entry.cls))
            types = parameter_types(entry.cls)
            for key, value in parse_component(f"{name}{colon}{values}")[1].items():
                if component_kind(types.get(key)) == "breaker":
                    for part in split_components(name, key, value):
                        inner = chain_classes(part)
                        if inner is None:
                            return None
                        classes += inner
    except UserError:
        return None
    return classes


def chain_threat(text: str) -> Threat | None:
    """Return the threat class of a chain, the strongest of its members; None if a member is not installed here."""
    classes = chain_classes(text)
    return classes and max((cls.threat for cls in classes), key=THREATS.index)  # type: ignore[return-value]


def chain_year(text: str) -> int | None:
    """Return the year in which the last of a chain's members was published: the first year in its `paper`.

    None if a member is not installed here, or if its `paper` has no year.
    """
    years = [YEAR_PATTERN.search(cls.paper) for cls in chain_classes(text) or ()]
    return max(int(year[0]) for year in years if year) if years and all(years) else None
