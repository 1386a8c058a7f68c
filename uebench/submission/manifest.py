"""The format of `manifest.json` in a bundle, and of the header of released images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from uebench.components.errors import UserError
from uebench.storage.strict_json import StrictStruct, check_shape, parse_strict_json

BUNDLE_SCHEMA = 1


class _Terms(StrictStruct):
    """What makes the entries of a suite comparable."""

    numbers: int
    recipe: str
    breakers: list[str]
    targets: list[str]
    floor: float


class _MadeWith(StrictStruct):
    device: list[str]
    torch: list[str]
    uebench: list[str]


class _Distribution(StrictStruct):
    name: str
    version: str
    sha256: str


class _Submitter(StrictStruct):
    name: str
    contact: str
    paper: str


class _Member(StrictStruct):
    bytes: int
    sha256: str


class Manifest(StrictStruct):
    """The fields of a manifest; components go by canonical text, `breaker` is empty for the entry of a noise.

    `released` has the SHA-256 of the released images by the key of the job that made them, `members` the length and
    SHA-256 of every other file in the bundle.
    """

    schema: int
    suite: str
    terms: _Terms
    dataset: str
    content: str
    noises: list[str]
    breaker: str
    seeds: list[int]
    keys: list[str]
    made_with: _MadeWith
    distributions: list[_Distribution]
    released: dict[str, str]
    submitter: _Submitter
    members: dict[str, _Member]


class _Array(StrictStruct):
    dtype: str
    shape: list[int]
    data_offsets: list[int]


class ImagesHeader(StrictStruct):
    """The header of a safetensors file with one array, `images`."""

    images: _Array


def parse_manifest(content: bytes, source: str) -> Mapping[str, Any]:
    """Return a manifest as a table with the fields of `Manifest`; raises `UserError`."""
    table = parse_strict_json(content, source)
    if isinstance(table, dict) and table.get("schema", BUNDLE_SCHEMA) != BUNDLE_SCHEMA:
        raise UserError(f"{source} has schema {table['schema']!r}; this version reads {BUNDLE_SCHEMA}")
    check_shape(table, Manifest, source)
    return dict(table)
