"""Components and text: values for parameters, the canonical text that is hashed, the label for people, and chains."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from fractions import Fraction
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from uebench.components.component import Component
from uebench.components.errors import UserError
from uebench.components.grammar import SPECIAL_CHARACTERS, nearest_match
from uebench.components.interfaces import Breaker


def parameter_types(cls: type[Component]) -> Mapping[str, Any]:
    """Return the annotated type of every parameter of a component class."""
    return _parameter_types(cls)  # type: ignore[arg-type]


@cache
def _parameter_types(cls: Any) -> Mapping[str, Any]:
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in fields(cls)}


def convert_value(owner: str, key: str, kind: Any, value: Any) -> Any:
    """Convert a value, usually text, to the annotated type of a parameter; raises `UserError`. Fractions are exact."""

    def refuse(expected: str) -> UserError:
        return UserError(f"{owner}: {key} must be {expected}, not {value!r}")

    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise UserError(f"{owner}: {key} cannot be {value!r}{nearest_match(str(value), get_args(kind))}")
        return value
    if kind is str:
        if not isinstance(value, str):
            raise refuse("text")
        return value
    if kind is bool:
        if isinstance(value, bool):
            return value
        if value not in ("true", "false"):
            raise refuse("true or false")
        return value == "true"
    if isinstance(value, bool):
        raise refuse("a number")
    if kind is int:
        try:
            return int(value if isinstance(value, int) else str(value).replace("_", ""))
        except ValueError:
            raise refuse("a whole number") from None
    if kind is float:
        try:
            upper, slash, lower = str(value).partition("/")
            if "/" in lower:
                raise ValueError
            number = float(Fraction(upper.strip()) / Fraction(lower.strip())) if slash else float(value)
        except ZeroDivisionError:
            raise refuse("a number; it divides by zero") from None
        except (ValueError, OverflowError):
            raise refuse("a number or a fraction such as 8/255") from None
        if not math.isfinite(number):
            raise refuse("a finite number")
        return number
    raise TypeError(f"{owner}: parameter {key} has type {kind}, which the command line cannot read")


def format_number(value: float) -> str:
    """Write a float for people: as a multiple of 1/255 where it is exactly one, else as short as it can be."""
    short, multiple = f"{value:g}", f"{value * 255:.4g}"
    if float(short) == value:
        return short
    if abs(value) < 1e6 and float(Fraction(multiple) / 255) == value:
        return f"{multiple}/255"
    return repr(value)


def format_value(value: Any, exact: bool) -> str:
    """Write a parameter's value: exactly, or for people."""
    if isinstance(value, Component):
        inner = canonical_text(value) if exact else component_label(value)
        return f"({inner})" if SPECIAL_CHARACTERS.search(inner) else inner
    if isinstance(value, tuple):
        inner = "/".join(format_value(part, exact) for part in value)
        return f"({inner})" if len(value) == 1 and inner[0] == "(" else inner  # the outer pair is taken off
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value) if exact else format_number(value)
    plain = str(value)
    return f"({plain})" if SPECIAL_CHARACTERS.search(plain) else plain


def canonical_text(component: Component) -> str:
    """Return name, version and every parameter that changes a number: equal texts mean equal results.

    A parameter that came later than the others is left out at its default, as in the texts from before it.
    """
    known: str | None = vars(component).get(_TEXT)  # each component stands in thousands of cells
    if known is None:
        known = vars(component)[_TEXT] = _write_canonical_text(component)
    return known


_TEXT = "_canonical"


def _write_canonical_text(component: Component) -> str:
    texts = [
        f"{field.name}={format_value(getattr(component, field.name), exact=True)}"
        for field in fields(component)  # type: ignore[arg-type]
        if field.metadata.get("identity", True)
        and not (field.metadata.get("later") and _same(getattr(component, field.name), field.default))
    ]
    head = f"{component.name}@{component.version}"
    return f"{head}:{','.join(texts)}" if texts else head


def component_label(component: Component, usual: Mapping[str, Any] | None = None) -> str:
    """Return the name and what differs from the usual values: the class's defaults, or those a suite sets."""

    def standard(one: Field[Any]) -> Any:
        return (usual or {}).get(one.name, None if one.default is MISSING else one.default)

    texts = [
        f"{field.name}={format_value(getattr(component, field.name), exact=False)}"
        for field in fields(component)  # type: ignore[arg-type]
        if field.metadata.get("identity", True) and not _same(getattr(component, field.name), standard(field))
    ]
    return f"{component.alias()}:{','.join(texts)}" if texts else component.alias()


def _same(value: Any, standard: Any) -> bool:
    if isinstance(value, Component | tuple) and isinstance(standard, str):
        return (
            component_label(value) if isinstance(value, Component) else format_value(value, exact=False)
        ) == standard
    return bool(value == standard)


def make_chain(breakers: Sequence[Breaker]) -> tuple[Breaker, ...]:
    """Return a chain without idle members; raises `UserError` where two members attack, or choose."""
    attackers = [breaker.name for breaker in breakers if type(breaker).attack is not Breaker.attack]
    if len(attackers) > 1:
        raise UserError(f"a chain holds at most one attack, not {' and '.join(attackers)}")
    choosers = [breaker.name for breaker in breakers if breaker.choice()]
    if len(choosers) > 1:
        raise UserError(f"a chain holds at most one breaker that chooses, not {' and '.join(choosers)}")
    busy = tuple(breaker for breaker in breakers if breaker.name != "none") or tuple(breakers[:1])
    chain_alternatives(busy)  # each must be a chain
    return busy


def chain_alternatives(breakers: Sequence[Breaker]) -> tuple[tuple[Breaker, ...], ...]:
    """Return the chains that a chain with a choosing member can become, empty where no member chooses.

    Each candidate stands in the place of that member. Raises `UserError` where a candidate is not a chain, or chooses
    itself.
    """
    for index, breaker in enumerate(breakers):
        if choice := breaker.choice():
            inner = [member.name for candidate in choice.chains for member in candidate if member.choice()]
            if inner:
                raise UserError(f"{breaker.name} cannot choose {inner[0]}, which chooses itself")
            return tuple(
                make_chain([*breakers[:index], *candidate, *breakers[index + 1 :]]) for candidate in choice.chains
            )
    return ()


def chain_text(chain: Sequence[Breaker]) -> str:
    """Return the canonical text of a chain, its members joined with `+`."""
    return "+".join(canonical_text(breaker) for breaker in chain)


def chain_label(chain: Sequence[Breaker]) -> str:
    """Return the label of a chain: those of its members, joined with `+`."""
    return "+".join(map(component_label, chain))
