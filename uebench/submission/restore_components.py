"""Builds installed components from untrusted canonical texts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import cast, get_origin

from uebench.components.component import Component
from uebench.components.errors import UserError
from uebench.components.grammar import (
    NAME_PATTERN,
    nearest_match,
    parse_component,
    split_components,
    split_outside_parentheses,
)
from uebench.components.interfaces import Breaker
from uebench.components.kinds import component_kind
from uebench.components.registry import registry
from uebench.components.spec import canonical_text, make_chain, parameter_types

PLAIN_TEXT = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._:=,()/+@-]*")
"""The characters of canonical texts and labels; none is markup in a table, on a page or on a terminal."""
VERSION_PATTERN = re.compile(r"(?<=[a-z0-9-])@(\d{1,9})(?=[:,/)]|$)")


class NotInstalled(UserError):
    """A component is not installed here, has another version, or needs more than its canonical text (a path)."""


def parse_canonical(kind: str, text: str) -> tuple[str, int, dict[str, str]]:
    """Return name, version and parameters of a canonical text, as text; raises `UserError` for any other text."""
    version = VERSION_PATTERN.search(text)
    if not PLAIN_TEXT.fullmatch(text) or not version or text[: version.start()] != NAME_PATTERN.match(text)[0]:  # type: ignore[index]
        raise UserError(f"{text!r} is not the canonical text of a {kind}")
    return text[: version.start()], int(version[1]), parse_component(text[: version.start()] + text[version.end() :])[1]


def restore_component(kind: str, text: str, given: Mapping[str, Component] | None = None) -> Component:
    """Return the component that has this canonical text, or the given one that has it.

    Raises `NotInstalled` where it cannot be built here, and another `UserError` for a wrong text: an unknown parameter,
    one that changes no number (a path would be read), a value out of range or in another spelling.
    """
    if text in (given or {}):
        return given[text]  # type: ignore[index]
    _check_text(kind, text)
    component = registry().build(kind, VERSION_PATTERN.sub("", text))
    if canonical_text(component) != text:
        raise UserError(f"{kind} {text!r} is not how it is written: {canonical_text(component)!r}")
    return component


def restore_chain(text: str, given: Mapping[str, Component] | None = None) -> tuple[Breaker, ...]:
    """Return the chain of breakers that has this canonical text; raises like `restore_component`."""
    parts = [cast(Breaker, restore_component("breaker", part, given)) for part in split_outside_parentheses(text, "+")]
    chain = make_chain(parts)
    if list(chain) != parts:
        raise UserError(f"chain {text!r} holds members that do nothing")
    return chain


def _check_text(kind: str, text: str) -> None:
    """Raise `UserError` for a text from which nothing may be built."""
    name, version, values = parse_canonical(kind, text)
    if name not in registry().entries[kind]:
        raise NotInstalled(f"{kind} {name} is not installed here")
    cls = registry().find(kind, name).cls
    if cls.version != version:
        raise NotInstalled(f"{kind} {name} has version {cls.version} here, not {version}")
    types = parameter_types(cls)
    for field in fields(cls):  # type: ignore[arg-type]
        value, inner = values.get(field.name), component_kind(types[field.name])
        if not field.metadata.get("identity", True):
            if value is not None:
                raise UserError(f"{kind} {name}: {field.name} is not part of a canonical text")
            if field.default is MISSING:
                raise NotInstalled(f"{kind} {name} needs {field.name}=... ({field.metadata.get('doc', '')})")
        elif value is None:
            if not field.metadata.get("later"):  # a newer parameter, left out at its default
                raise UserError(f"{kind} {name} lacks {field.name} in {text!r}")
        elif inner:
            many = get_origin(types[field.name]) is tuple
            for part in split_components(f"{kind} {name}", field.name, value) if many else [value]:
                _check_text(inner, part)
        elif types[field.name] is float and not re.fullmatch(r"-?[0-9.]{1,30}(e-?[0-9]{1,3})?", value):
            raise UserError(f"{kind} {name}: {field.name} must be a decimal number, not {value!r}")
    for key in values:
        if key not in types:
            raise UserError(f"{kind} {name} has no parameter {key!r}{nearest_match(key, types)}")
