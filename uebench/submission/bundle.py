"""Writes and reads bundles: one zip file with a manifest, results, logs and perhaps released images.

A bundle has exactly one valid form. A reader accepts a file when writing its members again gives the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import shutil
import struct
import tempfile
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
from uebench.storage.strict_json import check_shape, parse_strict_json
from uebench.submission.manifest import ImagesHeader, parse_manifest
from uebench.submission.zip_format import (
    LARGEST_BUNDLE,
    MANIFEST_MEMBER,
    MEMBER_LIMITS,
    MOST_MEMBERS,
    RESULTS_MEMBER,
    check_zip_end,
    check_zip_members,
    zip_entry,
)

HEADER_BYTES = 1000
"""Most bytes of the header of a safetensors file with one array."""
BROKEN_ZIP = (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, OverflowError, EOFError, struct.error)
"""What Python's zip reader raises for damaged files."""


@dataclass(frozen=True)
class Bundle:
    """The content of a bundle: SHA-256 of the file, the manifest (as `Manifest`), results by key, and job logs.

    Very old jobs, and jobs of another store, have no log.
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
    events: Iterable[Mapping[str, Any]] = (),
) -> None:
    """Write a new bundle; equal contents give equal bytes on every machine.

    The manifest has every field but `members`; `released` are safetensors files by the key of their job. Members are
    not compressed: the bytes of zlib differ between versions, and stored members cannot expand. Raises `UserError`
    where the file exists or would be too large, `StoreError` where it cannot be written.
    """
    if path.exists():
        raise UserError(f"{path} exists; write the bundle into a new file")
    lines = [result.line() + "\n" for result in sorted(results, key=lambda result: result.key)]
    contents: dict[str, bytes | Path] = {RESULTS_MEMBER: "".join(lines).encode()}
    if log := b"".join(canonical_json(event) + b"\n" for event in events):
        contents[LOG_FILE] = log
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
            with open(scratch, "wb") as file:
                _write_members(file, {name: (_size_of(content), content) for name, content in contents.items()})
            os.replace(scratch, path)
        finally:
            scratch.unlink(missing_ok=True)


def _write_members(file: IO[bytes], members: Mapping[str, tuple[int, bytes | Path | IO[bytes]]]) -> None:
    """Write members, each with its size, as the one valid zip file that holds them."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, (size, content) in sorted(members.items()):
            with archive.open(zip_entry(name, size), "w") as target, _open(content) as source:
                shutil.copyfileobj(source, target)


def _open(content: bytes | Path | IO[bytes]) -> IO[bytes]:
    if isinstance(content, bytes):
        return io.BytesIO(content)
    return open(content, "rb") if isinstance(content, Path) else content


def content_sha256(content: bytes | Path) -> str:
    """Return the SHA-256 of some bytes, or of a file."""
    with _open(content) as source:
        return _digest(source)


def _digest(source: IO[bytes]) -> str:
    return hashlib.file_digest(source, "sha256").hexdigest()  # type: ignore[arg-type]


def _size_of(content: bytes | Path) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def read_bundle(path: Path) -> Bundle:
    """Return the content of a valid bundle; nothing is extracted, unpickled or imported. Raises `UserError`.

    Every byte of the file is one that `write_bundle` writes for the same members, and every member has the SHA-256
    that the manifest gives.
    """
    if not path.is_file():
        raise UserError(f"{path} is not a file")
    try:
        with open(path, "rb") as file:
            return _read(file, path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def _read(file: IO[bytes], path: Path) -> Bundle:
    count = check_zip_end(file, path)
    file.seek(0)
    digest = _digest(file)
    try:
        archive = zipfile.ZipFile(file)
    except BROKEN_ZIP as error:
        raise UserError(f"{path} is not a valid zip file: {_printable(error)}") from None
    names = check_zip_members(archive, path)
    if len(names) != count:
        raise UserError(f"{path} lists {len(names)} members and says {count}")
    try:
        _check_rewritten(archive, names, digest, path)
    except BROKEN_ZIP as error:
        raise UserError(f"{path} is damaged: {_printable(error)}") from None
    manifest = parse_manifest(archive.read(MANIFEST_MEMBER), f"{path}: {MANIFEST_MEMBER}")
    _check_members(archive, names, manifest, path)
    results = _parse_results(archive.read(RESULTS_MEMBER), f"{path}: {RESULTS_MEMBER}")
    events = parse_job_log(archive.read(LOG_FILE), f"{path}: {LOG_FILE}") if LOG_FILE in names else []
    for name in names - set(MEMBER_LIMITS):
        with archive.open(name) as content:
            _check_images(content, archive.getinfo(name).file_size, f"{path}: {name}")
    return Bundle(digest, manifest, results, events)


def _check_rewritten(archive: zipfile.ZipFile, names: set[str], digest: str, path: Path) -> None:
    """Raise `UserError` where writing the members again does not give the same file."""
    with tempfile.TemporaryFile() as copy:
        _write_members(copy, {name: (archive.getinfo(name).file_size, archive.open(name)) for name in names})
        copy.seek(0)
        if _digest(copy) != digest:
            raise UserError(f"{path} is not the file that `uebench submit` writes for its contents")


def _printable(error: Exception) -> str:
    return str(error).encode("unicode_escape").decode()[:200]


def _check_members(archive: zipfile.ZipFile, names: set[str], manifest: Mapping[str, Any], path: Path) -> None:
    """Raise `UserError` where the manifest does not list exactly the other members, or one has another content."""
    listed = manifest["members"]
    for name in sorted(set(listed) ^ (names - {MANIFEST_MEMBER})):
        raise UserError(f"{path}: {ascii(name)[:100]} is {'missing' if name in listed else 'not in the manifest'}")
    for name, member in listed.items():
        with archive.open(name) as content:
            digest = _digest(content)
        if (digest, archive.getinfo(name).file_size) != (member["sha256"], member["bytes"]):
            raise UserError(f"{path}: {name} does not match its SHA-256 and length in the manifest")
        if name not in MEMBER_LIMITS and manifest["released"].get(Path(name).stem) != digest:
            raise UserError(f"{path}: {name} is no released noise of the manifest")


def _parse_results(content: bytes, source: str) -> list[Result]:
    """Return the records of a bundle, parsed as untrusted JSON and as records; raises `UserError`."""
    results: list[Result] = []
    for number, line in enumerate(content.splitlines(keepends=True), 1):
        where = f"{source} line {number}"
        if not line.endswith(b"\n"):
            raise UserError(f"{where} does not end")
        parse_strict_json(line, where)
        results.append(parse_result(line, where))
        if len(results) > 1 and results[-2].key >= results[-1].key:
            reason = "stands there twice" if results[-2].key == results[-1].key else "is out of order"
            raise UserError(f"{where}: key {results[-1].key!r} {reason}")
    return results


def _check_images(content: IO[bytes], size: int, source: str) -> None:
    """Raise `UserError` where a safetensors file is not one array `images`, uint8 (n, c, h, w), and nothing else."""
    length = int.from_bytes(content.read(8), "little")
    if length > min(HEADER_BYTES, size - 8):
        raise UserError(f"{source} has a header of {length} bytes; at most {HEADER_BYTES}")
    header = parse_strict_json(content.read(length), f"{source}, header")
    check_shape(header, ImagesHeader, f"{source}, header")
    array, count = header["images"], size - 8 - length
    shape = array["shape"]
    if array["dtype"] != "U8" or len(shape) != 4 or min(shape) < 1 or math.prod(shape) != count:
        raise UserError(f"{source} must hold images uint8 (n, c, h, w) of {count} bytes, not {array['dtype']} {shape}")
    if array["data_offsets"] != [0, count]:
        raise UserError(f"{source} has its images at {array['data_offsets']}, not [0, {count}]")
