"""Reads JSON from untrusted sources: no ambiguous values, only printable text, values of the expected types."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, NoReturn

import msgspec

from uebench.components.errors import UserError

INTEGER_DIGITS = 16
"""Most digits of a whole number; nothing here counts further."""
TEXT_LENGTH = 4000
"""Most characters of a text; the longest ones are canonical texts."""


def parse_strict_json(content: bytes, source: str) -> Any:
    """Return the value of a JSON text; raises `UserError`, which begins with the source.

    It refuses what JSON readers understand differently, or what can hide something: a field that stands twice, NaN and
    infinities, very long numbers, deep nesting, and characters that are not printable (controls, escapes, marks that
    change the direction of text).
    """

    def table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            names = [name for name, _ in pairs]
            raise UserError(f"{source}: field {next(name for name in names if names.count(name) > 1)!r} stands twice")
        return fields

    def whole(text: str) -> int:
        if len(text) > INTEGER_DIGITS:
            raise UserError(f"{source}: a whole number of {len(text)} digits")
        return int(text)

    def real(text: str) -> float:
        if not math.isfinite(float(text)):
            raise UserError(f"{source}: {text[:20]} is beyond every number")
        return float(text)

    def constant(text: str) -> NoReturn:
        raise UserError(f"{source}: {text} is no number")

    try:
        value = json.loads(
            content.decode(), object_pairs_hook=table, parse_int=whole, parse_float=real, parse_constant=constant
        )
        for text in _texts(value):
            check_printable(text, source)
    except UnicodeDecodeError as error:
        raise UserError(f"{source} is no UTF-8: {error.reason} at byte {error.start}") from None
    except RecursionError:
        raise UserError(f"{source} is nested too deeply") from None
    except ValueError as error:
        raise UserError(f"{source} is no JSON: {error}") from None
    return value


def _texts(value: Any) -> Iterator[str]:
    """Yield every text in a JSON value, names of fields included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def check_printable(text: str, source: str, letters: int = TEXT_LENGTH) -> str:
    """Return a text that is printable and on one line; raises `UserError` for any other, or a long one."""
    if len(text) > letters:
        raise UserError(f"{source}: a text of {len(text)} characters; at most {letters}")
    if not text.isprintable():
        character = next(character for character in text if not character.isprintable())
        raise UserError(f"{source} holds a character that does not show: {character!a}")
    return text


class StrictStruct(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Base of types for `check_shape`: a table with these fields and no other; fields with a default may be missing."""


def check_shape(value: Any, shape: Any, source: str) -> None:
    """Raise `UserError` where a JSON value is not of a type; only a whole number may stand for a float."""
    try:
        msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        raise shape_error(error, source) from None


def shape_error(error: Exception, source: str) -> UserError:
    """Return the error for a value that was refused, as one printable line."""
    return UserError(f"{source}: {str(error).encode('unicode_escape').decode()[:200]}")
