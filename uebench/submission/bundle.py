"""A bundle: one zip file with a manifest, results and perhaps released images; written one way, read with suspicion."""

from __future__ import annotations

import hashlib
import io
import math
import os
import shutil
import struct
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from uebench.components.errors import UserError
from uebench.storage.atomic_files import canonical_json, reporting_write_errors
from uebench.storage.job_log import parse_job_log
from uebench.storage.result import Result, parse_result
from uebench.storage.store import LOG_FILE
from uebench.storage.strict_json import StrictStruct, check_shape, parse_strict_json
from uebench.submission.zip_format import (
    LARGEST_BUNDLE,
    MANIFEST_MEMBER,
    MEMBER_LIMITS,
    MOST_MEMBERS,
    RESULTS_MEMBER,
    check_zip_end,
    check_zip_entries,
    zip_entry,
)

BUNDLE_SCHEMA = 1
HEADER_BYTES = 1000
"""Bytes of the header of a safetensors file with one array."""


class _Terms(StrictStruct):
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
    """What a manifest holds. Components stand by canonical text; `breaker` is empty where noises are handed in.

    `released` has the SHA-256 of the released images by the key of the job that made them.
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


class _Header(StrictStruct):
    images: _Array


@dataclass(frozen=True)
class Bundle:
    """What a bundle says: the SHA-256 of the file, the manifest (as `Manifest`), results by key, and what jobs logged.

    Jobs done before there were logs, or in another store, have none.
    """

    sha256: str
    manifest: Mapping[str, Any]
    results: Sequence[Result]
    log: Sequence[Mapping[str, Any]] = ()


def write_bundle(
    path: Path,
    manifest: Mapping[str, Any],
    results: Iterable[Result],
    released: Mapping[str, Path],
    logged: Iterable[Mapping[str, Any]] = (),
) -> None:
    """Write a new bundle; equal contents give equal bytes, on every machine.

    The manifest lacks `members` only; `released` are safetensors files by the key of their job. Members are stored as
    they are: zlib's bytes differ between versions, and what is not compressed cannot explode. Raises `UserError` where
    the file exists or would be too large, `StoreError` where it cannot be written.
    """
    if path.exists():
        raise UserError(f"{path} exists; write the bundle into a new file")
    lines = [result.line() + "\n" for result in sorted(results, key=lambda result: result.key)]
    contents: dict[str, bytes | Path] = {RESULTS_MEMBER: "".join(lines).encode()}
    if told := b"".join(canonical_json(event) + b"\n" for event in logged):
        contents[LOG_FILE] = told
    contents |= {f"noise/{key}.safetensors": file for key, file in released.items()}
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    with reporting_write_errors(path):
        members = {
            name: {"bytes": _size_of(content), "sha256": content_sha256(content)} for name, content in contents.items()
        }
        contents[MANIFEST_MEMBER] = canonical_json({**manifest, "members": members})
        for name, most in MEMBER_LIMITS.items():
            if name in contents and _size_of(contents[name]) > most:
                raise UserError(f"{path}: {name} would have {_size_of(contents[name])} bytes; at most {most}")
        if sum(map(_size_of, contents.values())) + MOST_MEMBERS * 1000 > LARGEST_BUNDLE:
            raise UserError(f"{path} would be larger than {LARGEST_BUNDLE} bytes; leave the images out")
        try:
            with zipfile.ZipFile(scratch, "w") as archive:
                for name in sorted(contents):
                    entry = zip_entry(name, _size_of(contents[name]))
                    with archive.open(entry, "w") as into, _open(contents[name]) as content:
                        shutil.copyfileobj(content, into)
            os.replace(scratch, path)
        finally:
            scratch.unlink(missing_ok=True)


def _open(content: bytes | Path) -> IO[bytes]:
    return io.BytesIO(content) if isinstance(content, bytes) else open(content, "rb")


def content_sha256(content: bytes | Path) -> str:
    """Return the SHA-256 of some bytes, or of a file."""
    with _open(content) as source:
        return hashlib.file_digest(source, "sha256").hexdigest()  # type: ignore[arg-type]


def _size_of(content: bytes | Path) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def read_bundle(path: Path) -> Bundle:
    """Return a bundle whose form is right; nothing is extracted, unpickled or imported. Raises `UserError`.

    Every byte of the file belongs to a member, or to the zip around them as `write` makes it; every member has the
    SHA-256 that the manifest gives it.
    """
    if not path.is_file():
        raise UserError(f"{path} is no file")
    try:
        with open(path, "rb") as file:
            return _read(file, path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def _read(file: IO[bytes], path: Path) -> Bundle:
    count = check_zip_end(file, path)
    file.seek(0)
    whole = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, struct.error) as error:
        raise UserError(f"{path} is no sound zip file: {error}") from None
    names = check_zip_entries(archive, file, path)
    if len(names) != count:
        raise UserError(f"{path} lists {len(names)} members and says {count}")
    try:
        manifest = _manifest(archive.read(MANIFEST_MEMBER), f"{path}: {MANIFEST_MEMBER}")
        _check_members(archive, names, manifest, path)
        results = _results(archive.read(RESULTS_MEMBER), f"{path}: {RESULTS_MEMBER}")
        logged = parse_job_log(archive.read(LOG_FILE), f"{path}: {LOG_FILE}") if LOG_FILE in names else []
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} is damaged: {error}") from None
    for name in names - set(MEMBER_LIMITS):
        with archive.open(name) as content:
            _check_images(content, archive.getinfo(name).file_size, f"{path}: {name}")
    return Bundle(whole, manifest, results, logged)


def _manifest(content: bytes, place: str) -> dict[str, Any]:
    table = parse_strict_json(content, place)
    if isinstance(table, dict) and table.get("schema", BUNDLE_SCHEMA) != BUNDLE_SCHEMA:
        raise UserError(f"{place} has schema {table['schema']!r}; this version reads {BUNDLE_SCHEMA}")
    check_shape(table, Manifest, place)
    return dict(table)


def _check_members(archive: zipfile.ZipFile, names: set[str], manifest: Mapping[str, Any], path: Path) -> None:
    """Raise `UserError` where the manifest does not list exactly the other members, or one has another content."""
    listed = manifest["members"]
    for name in sorted(set(listed) ^ (names - {MANIFEST_MEMBER})):
        raise UserError(f"{path}: {ascii(name)[:100]} is {'missing' if name in listed else 'not in the manifest'}")
    for name, member in listed.items():
        with archive.open(name) as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()  # type: ignore[arg-type]
        if (found, archive.getinfo(name).file_size) != (member["sha256"], member["bytes"]):
            raise UserError(f"{path}: {name} does not match its SHA-256 and length in the manifest")
        if name not in MEMBER_LIMITS and manifest["released"].get(Path(name).stem) != found:
            raise UserError(f"{path}: {name} is no released noise of the manifest")


def _results(content: bytes, place: str) -> list[Result]:
    """Return the records of a bundle, read twice: with suspicion, and as every record is read; raises `UserError`."""
    found: list[Result] = []
    for number, line in enumerate(content.splitlines(keepends=True), 1):
        where = f"{place} line {number}"
        if not line.endswith(b"\n"):
            raise UserError(f"{where} does not end")
        parse_strict_json(line, where)
        found.append(parse_result(line, where))
        if len(found) > 1 and found[-2].key >= found[-1].key:
            word = "stands there twice" if found[-2].key == found[-1].key else "is out of order"
            raise UserError(f"{where}: key {found[-1].key!r} {word}")
    return found


def _check_images(content: IO[bytes], size: int, place: str) -> None:
    """Raise `UserError` where a safetensors file is not one array `images`, uint8 (n, c, h, w), and nothing else."""
    length = int.from_bytes(content.read(8), "little")
    if length > min(HEADER_BYTES, size - 8):
        raise UserError(f"{place} has a header of {length} bytes; at most {HEADER_BYTES}")
    header = parse_strict_json(content.read(length), f"{place}, header")
    check_shape(header, _Header, f"{place}, header")
    one, count = header["images"], size - 8 - length
    shape = one["shape"]
    if one["dtype"] != "U8" or len(shape) != 4 or min(shape) < 1 or math.prod(shape) != count:
        raise UserError(f"{place} must hold images uint8 (n, c, h, w) of {count} bytes, not {one['dtype']} {shape}")
    if one["data_offsets"] != [0, count]:
        raise UserError(f"{place} has its images at {one['data_offsets']}, not [0, {count}]")
