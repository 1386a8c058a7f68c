"""The zip file around a bundle: made in one way only, and every byte of it looked at before anything believes it."""

from __future__ import annotations

import io
import re
import stat
import struct
import zipfile
from pathlib import Path
from typing import IO

from uebench.components.errors import UserError
from uebench.storage.store import LOG_FILE

MANIFEST_MEMBER, RESULTS_MEMBER = "manifest.json", "results.jsonl"
RELEASED_MEMBER = re.compile(r"noise/[0-9a-f]{32}\.safetensors")
MOST_MEMBERS, LARGEST_BUNDLE = 256, 2**31 - 1
"""How many members a bundle may have, and how many bytes; no length in it needs more than 32 bits."""
LISTED_BYTES = 100
"""Bytes that a member takes in the list at the end, at most."""
MEMBER_LIMITS = {MANIFEST_MEMBER: 2**18, RESULTS_MEMBER: 2**24, LOG_FILE: 2**24}
"""Bytes of a member; what is in `noise/` is bounded by the bundle."""
_END = struct.Struct("<4s4H2LH")
_LISTED = struct.Struct("<4s4B4H3L5H2L")
_NEW_YEAR = 0x21  # 1980-01-01, the first day that a zip file knows


def zip_entry(name: str, size: int) -> zipfile.ZipInfo:
    """Return the only way in which a member is entered: no date, no owner, nothing compressed."""
    made = zipfile.ZipInfo(name)
    made.create_system, made.external_attr = 3, 0o600 << 16
    made.file_size = made.compress_size = size
    return made


def _listed(one: zipfile.ZipInfo, place: int) -> bytes:
    """Return how a member that stands at a place is listed at the end of a zip file."""
    name = one.filename.encode()
    versions = (one.create_version, one.create_system, one.extract_version, 0)
    sizes = (one.CRC, one.compress_size, one.file_size, len(name))
    return _LISTED.pack(b"PK\1\2", *versions, 0, 0, 0, _NEW_YEAR, *sizes, 0, 0, 0, 0, one.external_attr, place) + name


def check_zip_end(file: IO[bytes], path: Path) -> int:
    """Return the number of members, from the end of a zip file before anything believes it; raises `UserError`."""
    size = file.seek(0, io.SEEK_END)
    if size > LARGEST_BUNDLE:
        raise UserError(f"{path} has {size} bytes; a bundle has at most {LARGEST_BUNDLE}")
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
    if count > MOST_MEMBERS or length > count * LISTED_BYTES:
        raise UserError(f"{path} has {count} members in a list of {length} bytes; a bundle has at most {MOST_MEMBERS}")
    if start + length + _END.size != size:
        raise UserError(f"{path} has {size - start - length - _END.size} bytes that belong to no member")
    return int(count)


def check_zip_entries(archive: zipfile.ZipFile, file: IO[bytes], path: Path) -> set[str]:
    """Return the names of the members, each entered as `write` enters it, one behind the other; raises `UserError`."""
    found: list[str] = []
    place, listing = 0, archive.start_dir
    for member in archive.infolist():
        name, mode = member.orig_filename, member.external_attr >> 16
        if name not in MEMBER_LIMITS and not RELEASED_MEMBER.fullmatch(name):
            raise UserError(
                f"{path} holds a member {ascii(name)[:100]}; a bundle holds {MANIFEST_MEMBER}, "
                f"{RESULTS_MEMBER}, {LOG_FILE} and noise/KEY.safetensors"
            )
        if name in found:
            raise UserError(f"{path} holds {name} twice")
        if member.flag_bits & 1:
            raise UserError(f"{path}: {name} is encrypted")
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise UserError(f"{path}: {name} is {'a link' if stat.S_ISLNK(mode) else 'no plain file'}")
        if member.compress_type != zipfile.ZIP_STORED:
            raise UserError(f"{path}: {name} is compressed; members of a bundle are stored as they are")
        if member.file_size > MEMBER_LIMITS.get(name, LARGEST_BUNDLE):
            raise UserError(
                f"{path}: {name} has {member.file_size} bytes; at most {MEMBER_LIMITS.get(name, LARGEST_BUNDLE)}"
            )
        usual = zip_entry(name, member.file_size)
        usual.CRC = member.CRC
        header, listed = usual.FileHeader(), _listed(usual, place)
        file.seek(place)
        same = file.read(len(header)) == header
        file.seek(listing)
        if not same or file.read(len(listed)) != listed:
            raise UserError(f"{path}: {name} is not entered as `uebench submit` does it")
        place, listing = place + len(header) + member.file_size, listing + len(listed)
        found.append(name)
    if place != archive.start_dir:
        raise UserError(f"{path} has {archive.start_dir - place} bytes between its members and their list")
    for name in (MANIFEST_MEMBER, RESULTS_MEMBER):
        if name not in found:
            raise UserError(f"{path} holds no {name}")
    return set(found)
