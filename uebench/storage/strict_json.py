"""Reads what a stranger wrote: JSON without surprises, text that shows what it holds, values of the expected shape."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, NoReturn

import msgspec

from uebench.components.errors import UserError

INTEGER_DIGITS = 16
"""Of a whole number: more are no count of anything here."""
TEXT_LENGTH = 4000
"""Of one text; the longest that are written here are canonical texts."""


def parse_strict_json(content: bytes, place: str) -> Any:
    """Return the value of a JSON text; raises `UserError`, which begins with the place.

    Refused is what readers of JSON disagree on, or what hides something: a field that stands twice, NaN and infinities,
    endless numbers, deep nesting, and characters that do not show (controls, escapes, marks that turn the direction).
    """

    def table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            raise UserError(f"{place}: field {next(name for name in names if names.count(name) > 1)!r} stands twice")
        return found

    def whole(text: str) -> int:
        if len(text) > INTEGER_DIGITS:
            raise UserError(f"{place}: a whole number of {len(text)} digits")
        return int(text)

    def real(text: str) -> float:
        if not math.isfinite(float(text)):
            raise UserError(f"{place}: {text[:20]} is beyond every number")
        return float(text)

    def constant(text: str) -> NoReturn:
        raise UserError(f"{place}: {text} is no number")

    try:
        value = json.loads(
            content.decode(), object_pairs_hook=table, parse_int=whole, parse_float=real, parse_constant=constant
        )
        for text in _texts(value):
            check_printable(text, place)
    except UnicodeDecodeError as error:
        raise UserError(f"{place} is no UTF-8: {error.reason} at byte {error.start}") from None
    except RecursionError:
        raise UserError(f"{place} is nested too deeply") from None
    except ValueError as error:
        raise UserError(f"{place} is no JSON: {error}") from None
    return value


def _texts(value: Any) -> Iterator[str]:
    """Yield every text and every name of a field in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def check_printable(text: str, place: str, letters: int = TEXT_LENGTH) -> str:
    """Return a text that shows what it holds, on one line; raises `UserError` for any other, or one too long."""
    if len(text) > letters:
        raise UserError(f"{place}: a text of {len(text)} characters; at most {letters}")
    if not text.isprintable():
        sign = next(sign for sign in text if not sign.isprintable())
        raise UserError(f"{place} holds a character that does not show: {sign!a}")
    return text


class StrictStruct(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Base of a type for `conform`: a table with these fields, those without a default at least, and no other."""


def check_shape(value: Any, shape: Any, place: str) -> None:
    """Raise `UserError` where a JSON value is not of a type: a whole number may stand for a float, and no more."""
    try:
        msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        raise shape_error(error, place) from None


def shape_error(error: Exception, place: str) -> UserError:
    """Return what to say of a value that was refused: a line that shows what it holds."""
    return UserError(f"{place}: {str(error).encode('unicode_escape').decode()[:200]}")
