"""A bundle: one zip file with a manifest, results and perhaps released images; written one way, read with suspicion."""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
import shutil
import stat
import struct
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from uebench import log, result
from uebench.api import UserError
from uebench.result import Result
from uebench.store import LOG, pack, writing
from uebench.untrusted import conform, read_json

SCHEMA = 1
MANIFEST, RESULTS = "manifest.json", "results.jsonl"
RELEASED = re.compile(r"noise/[0-9a-f]{32}\.safetensors")
MEMBERS, LARGEST = 256, 2**31 - 1
"""How many members a bundle may have, and how many bytes; no length in it needs more than 32 bits."""
LISTED = 100
"""Bytes that a member takes in the list at the end, at most."""
LIMITS = {MANIFEST: 2**18, RESULTS: 2**24, LOG: 2**24}
"""Bytes of a member; what is in `noise/` is bounded by the bundle."""
HEADER = 1000
"""Bytes of the header of a safetensors file with one array."""
SHAPE = {
    "schema": int,
    "suite": str,
    "terms": {"numbers": int, "recipe": str, "breakers": [str], "targets": [str], "floor": float},
    "dataset": str,
    "content": str,
    "noises": [str],
    "breaker": str,
    "seeds": [int],
    "keys": [str],
    "made_with": {"device": [str], "torch": [str], "uebench": [str]},
    "distributions": [{"name": str, "version": str, "sha256": str}],
    "released": {str: str},
    "submitter": {"name": str, "contact": str, "paper": str},
    "members": {str: {"bytes": int, "sha256": str}},
}
"""The manifest. Components stand by canonical text; `breaker` is empty where noises are handed in, not a breaker.

`released` has the SHA-256 of the released images by the key of the job that made them.
"""
_END = struct.Struct("<4s4H2LH")
_LISTED = struct.Struct("<4s4B4H3L5H2L")
_NEW_YEAR = 0x21  # 1980-01-01, the first day that a zip file knows


@dataclass(frozen=True)
class Bundle:
    """What a bundle says: the SHA-256 of the file, the manifest (of `SHAPE`), results by key, and what jobs logged.

    Jobs done before there were logs, or in another store, have none.
    """

    sha256: str
    manifest: Mapping[str, Any]
    results: Sequence[Result]
    log: Sequence[Mapping[str, Any]] = ()


def write(
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
    lines = [one.line() + "\n" for one in sorted(results, key=lambda one: one.key)]
    contents: dict[str, bytes | Path] = {RESULTS: "".join(lines).encode()}
    if told := b"".join(pack(one) + b"\n" for one in logged):
        contents[LOG] = told
    contents |= {f"noise/{key}.safetensors": file for key, file in released.items()}
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path):
        members = {name: {"bytes": _size_of(one), "sha256": sha256_of(one)} for name, one in contents.items()}
        contents[MANIFEST] = pack({**manifest, "members": members})
        for name, most in LIMITS.items():
            if name in contents and _size_of(contents[name]) > most:
                raise UserError(f"{path}: {name} would have {_size_of(contents[name])} bytes; at most {most}")
        if sum(map(_size_of, contents.values())) + MEMBERS * 1000 > LARGEST:
            raise UserError(f"{path} would be larger than {LARGEST} bytes; leave the images out")
        try:
            with zipfile.ZipFile(scratch, "w") as archive:
                for name in sorted(contents):
                    entry = _entry(name, _size_of(contents[name]))
                    with archive.open(entry, "w") as into, _open(contents[name]) as content:
                        shutil.copyfileobj(content, into)
            os.replace(scratch, path)
        finally:
            scratch.unlink(missing_ok=True)


def _open(content: bytes | Path) -> IO[bytes]:
    return io.BytesIO(content) if isinstance(content, bytes) else open(content, "rb")


def sha256_of(content: bytes | Path) -> str:
    """Return the SHA-256 of some bytes, or of a file."""
    with _open(content) as source:
        return hashlib.file_digest(source, "sha256").hexdigest()  # type: ignore[arg-type]


def _size_of(content: bytes | Path) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _entry(name: str, size: int) -> zipfile.ZipInfo:
    """Return the only way in which a member is entered: no date, no owner, nothing compressed."""
    entry = zipfile.ZipInfo(name)
    entry.create_system, entry.external_attr = 3, 0o600 << 16
    entry.file_size = entry.compress_size = size
    return entry


def _listed(entry: zipfile.ZipInfo, place: int) -> bytes:
    """Return how a member that stands at a place is listed at the end of a zip file."""
    one, name = entry, entry.filename.encode()
    versions = (one.create_version, one.create_system, one.extract_version, 0)
    sizes = (one.CRC, one.compress_size, one.file_size, len(name))
    return _LISTED.pack(b"PK\1\2", *versions, 0, 0, 0, _NEW_YEAR, *sizes, 0, 0, 0, 0, one.external_attr, place) + name


def read(path: Path) -> Bundle:
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
    count = _check_end(file, path)
    file.seek(0)
    whole = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, struct.error) as error:
        raise UserError(f"{path} is no sound zip file: {error}") from None
    names = _entries(archive, file, path)
    if len(names) != count:
        raise UserError(f"{path} lists {len(names)} members and says {count}")
    try:
        manifest = _manifest(archive.read(MANIFEST), f"{path}: {MANIFEST}")
        _check_members(archive, names, manifest, path)
        results = _results(archive.read(RESULTS), f"{path}: {RESULTS}")
        logged = log.parse(archive.read(LOG), f"{path}: {LOG}") if LOG in names else []
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} is damaged: {error}") from None
    for name in names - set(LIMITS):
        with archive.open(name) as content:
            _check_images(content, archive.getinfo(name).file_size, f"{path}: {name}")
    return Bundle(whole, manifest, results, logged)


def _check_end(file: IO[bytes], path: Path) -> int:
    """Return the number of members, from the end of a zip file before anything believes it; raises `UserError`."""
    size = file.seek(0, io.SEEK_END)
    if size > LARGEST:
        raise UserError(f"{path} has {size} bytes; a bundle has at most {LARGEST}")
    file.seek(max(0, size - 2**16 - _END.size))
    tail = file.read()
    place = tail.rfind(b"PK\5\6")
    behind = len(tail) - place - _END.size
    if place < 0 or behind < 0:
        raise UserError(f"{path} is no zip file, or was cut short")
    if behind:
        raise UserError(f"{path} has {behind} bytes behind its end")
    _, disk, first, here, count, length, start, comment = _END.unpack(tail[place:])
    if disk or first or here != count or comment or tail[place - 20 : place - 16] == b"PK\6\7":
        raise UserError(f"{path} is one of several parts, has a comment, or is a zip file of 64 bits")
    if count > MEMBERS or length > count * LISTED:
        raise UserError(f"{path} has {count} members in a list of {length} bytes; a bundle has at most {MEMBERS}")
    if start + length + _END.size != size:
        raise UserError(f"{path} has {size - start - length - _END.size} bytes that belong to no member")
    return int(count)


def _entries(archive: zipfile.ZipFile, file: IO[bytes], path: Path) -> set[str]:
    """Return the names of the members, each entered as `write` enters it, one behind the other; raises `UserError`."""
    found: list[str] = []
    place, listing = 0, archive.start_dir
    for one in archive.infolist():
        name, mode = one.orig_filename, one.external_attr >> 16
        if name not in LIMITS and not RELEASED.fullmatch(name):
            raise UserError(
                f"{path} holds a member {ascii(name)[:100]}; a bundle holds {MANIFEST}, {RESULTS}, {LOG} "
                "and noise/KEY.safetensors"
            )
        if name in found:
            raise UserError(f"{path} holds {name} twice")
        if one.flag_bits & 1:
            raise UserError(f"{path}: {name} is encrypted")
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise UserError(f"{path}: {name} is {'a link' if stat.S_ISLNK(mode) else 'no plain file'}")
        if one.compress_type != zipfile.ZIP_STORED:
            raise UserError(f"{path}: {name} is compressed; members of a bundle are stored as they are")
        if one.file_size > LIMITS.get(name, LARGEST):
            raise UserError(f"{path}: {name} has {one.file_size} bytes; at most {LIMITS.get(name, LARGEST)}")
        usual = _entry(name, one.file_size)
        usual.CRC = one.CRC
        header, listed = usual.FileHeader(), _listed(usual, place)
        file.seek(place)
        same = file.read(len(header)) == header
        file.seek(listing)
        if not same or file.read(len(listed)) != listed:
            raise UserError(f"{path}: {name} is not entered as `uebench submit` does it")
        place, listing = place + len(header) + one.file_size, listing + len(listed)
        found.append(name)
    if place != archive.start_dir:
        raise UserError(f"{path} has {archive.start_dir - place} bytes between its members and their list")
    for name in (MANIFEST, RESULTS):
        if name not in found:
            raise UserError(f"{path} holds no {name}")
    return set(found)


def _manifest(content: bytes, place: str) -> dict[str, Any]:
    table = read_json(content, place)
    if isinstance(table, dict) and table.get("schema", SCHEMA) != SCHEMA:
        raise UserError(f"{place} has schema {table['schema']!r}; this version reads {SCHEMA}")
    conform(table, SHAPE, place)
    return dict(table)


def _check_members(archive: zipfile.ZipFile, names: set[str], manifest: Mapping[str, Any], path: Path) -> None:
    """Raise `UserError` where the manifest does not list exactly the other members, or one has another content."""
    listed = manifest["members"]
    for name in sorted(set(listed) ^ (names - {MANIFEST})):
        raise UserError(f"{path}: {ascii(name)[:100]} is {'missing' if name in listed else 'not in the manifest'}")
    for name, one in listed.items():
        with archive.open(name) as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()  # type: ignore[arg-type]
        if (found, archive.getinfo(name).file_size) != (one["sha256"], one["bytes"]):
            raise UserError(f"{path}: {name} does not match its SHA-256 and length in the manifest")
        if name not in LIMITS and manifest["released"].get(Path(name).stem) != found:
            raise UserError(f"{path}: {name} is no released noise of the manifest")


def _results(content: bytes, place: str) -> list[Result]:
    """Return the records of a bundle, read twice: with suspicion, and as every record is read; raises `UserError`."""
    found: list[Result] = []
    for number, line in enumerate(content.splitlines(keepends=True), 1):
        where = f"{place} line {number}"
        if not line.endswith(b"\n"):
            raise UserError(f"{where} does not end")
        read_json(line, where)
        found.append(result.parse(line.decode(), where))
        if len(found) > 1 and found[-2].key >= found[-1].key:
            word = "stands there twice" if found[-2].key == found[-1].key else "is out of order"
            raise UserError(f"{where}: key {found[-1].key!r} {word}")
    return found


def _check_images(content: IO[bytes], size: int, place: str) -> None:
    """Raise `UserError` where a safetensors file is not one array `images`, uint8 (n, c, h, w), and nothing else."""
    length = int.from_bytes(content.read(8), "little")
    if length > min(HEADER, size - 8):
        raise UserError(f"{place} has a header of {length} bytes; at most {HEADER}")
    header = read_json(content.read(length), f"{place}, header")
    conform(header, {"images": {"dtype": str, "shape": [int], "data_offsets": [int]}}, f"{place}, header")
    one, count = header["images"], size - 8 - length
    shape = one["shape"]
    if one["dtype"] != "U8" or len(shape) != 4 or min(shape) < 1 or math.prod(shape) != count:
        raise UserError(f"{place} must hold images uint8 (n, c, h, w) of {count} bytes, not {one['dtype']} {shape}")
    if one["data_offsets"] != [0, count]:
        raise UserError(f"{place} has its images at {one['data_offsets']}, not [0, {count}]")
