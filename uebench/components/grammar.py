"""Parses `name:key=value,key=value` into names and parameters, both as text."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from uebench.components.errors import UserError

NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9-]*")
SPECIAL_CHARACTERS = re.compile(r"[,:+=()\s]")


def nearest_match(word: str, allowed: Iterable[str]) -> str:
    """Return '; did you mean X?' for the closest allowed word, or a list of all of them where none is close."""
    allowed = sorted(allowed)
    close = difflib.get_close_matches(word, allowed, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known: {', '.join(allowed)}" if allowed else ""


def split_outside_parentheses(text: str, separator: str) -> list[str]:
    """Split at separators outside parentheses; raises `UserError` where parentheses do not match."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if depth < 0:
            break
        if character == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    if depth != 0:
        raise UserError(f"unbalanced parentheses in {text!r}")
    return parts


def parse_component(text: str) -> tuple[str, dict[str, str]]:
    """Split `name:key=value,key=value` into the name and its parameters, both still text; raises `UserError`."""
    name, colon, rest = text.strip().partition(":")
    if not NAME_PATTERN.fullmatch(name):
        raise UserError(f"{text!r} is not a component: expected name or name:key=value,key=value")
    parameters: dict[str, str] = {}
    if colon and not rest.strip():
        raise UserError(f"{text!r} ends after the colon: expected key=value")
    for part in split_outside_parentheses(rest, ",") if colon else []:
        key, equals, value = part.partition("=")
        key, value = key.strip(), _bare(value.strip())
        if not equals or not key or not value:
            raise UserError(f"{part!r} in {text!r} is not a parameter: expected key=value")
        if key in parameters:
            raise UserError(f"{key} is given twice in {text!r}")
        parameters[key] = value
    return name, parameters


def _bare(text: str) -> str:
    """Return a text without parentheses that enclose all of it."""
    depth = 0
    for index, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:  # the first parenthesis closes
            return text[1:-1] if index == len(text) - 1 and text[0] == "(" else text
    return text


def split_components(owner: str, key: str, text: str) -> list[str]:
    """Split the components of one parameter at its slashes; raises `UserError` where parentheses are missing."""
    parts = [part.strip() for part in split_outside_parentheses(text, "/")]
    for part in parts:
        bare = _bare(part)
        if not bare or (len(parts) > 1 and bare == part and SPECIAL_CHARACTERS.search(part)):
            raise UserError(
                f"{owner}: {part!r} in {key} is not a component; among others, write one with parameters as "
                "(name:key=value)"
            )
    return [_bare(part) for part in parts]


def parse_label(text: str) -> tuple[str, dict[str, str]]:
    """Split a canonical text or a label into the part before the colon and the parameters, as written."""
    head, _, rest = text.partition(":")
    return head, {
        key: value for key, _, value in (part.partition("=") for part in split_outside_parentheses(rest, ",") if part)
    }
