"""The zip file of a bundle: how a member is entered, and limits that are checked before anything is read."""

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
"""Most members and most bytes of a bundle; no length in it needs more than 32 bits."""
DIRECTORY_BYTES = 100
"""Most bytes of a member's entry in the directory at the end."""
MEMBER_LIMITS = {MANIFEST_MEMBER: 2**18, RESULTS_MEMBER: 2**24, LOG_FILE: 2**24}
"""Most bytes of a member; those in `noise/` are limited by the bundle."""
_END = struct.Struct("<4s4H2LH")


def zip_entry(name: str, size: int) -> zipfile.ZipInfo:
    """Return the only valid entry of a member: no date, no owner, not compressed."""
    entry = zipfile.ZipInfo(name)
    entry.create_system, entry.external_attr = 3, 0o600 << 16
    entry.file_size = entry.compress_size = size
    return entry


def check_zip_end(file: IO[bytes], path: Path) -> int:
    """Return the number of members that the end of a zip file states; raises `UserError`.

    It limits the size of the directory, which Python's zip reader would load whole.
    """
    size = file.seek(0, io.SEEK_END)
    if size > LARGEST_BUNDLE:
        raise UserError(f"{path} has {size} bytes; a bundle has at most {LARGEST_BUNDLE}")
    file.seek(max(0, size - 2**16 - _END.size))
    tail = file.read()
    position = tail.rfind(b"PK\5\6")
    bytes_after_end = len(tail) - position - _END.size
    if position < 0 or bytes_after_end < 0:
        raise UserError(f"{path} is not a zip file, or was cut short")
    if bytes_after_end:
        raise UserError(f"{path} has {bytes_after_end} bytes behind its end")
    _, disk, first, count_on_disk, count, length, start, comment = _END.unpack(tail[position:])
    if disk or first or count_on_disk != count or comment or tail[position - 20 : position - 16] == b"PK\6\7":
        raise UserError(f"{path} is one of several parts, has a comment, or is a zip file of 64 bits")
    if count > MOST_MEMBERS or length > count * DIRECTORY_BYTES:
        raise UserError(f"{path} has {count} members in a list of {length} bytes; a bundle has at most {MOST_MEMBERS}")
    if start + length + _END.size != size:
        raise UserError(f"{path} has {size - start - length - _END.size} bytes that belong to no member")
    return int(count)


def check_zip_members(archive: zipfile.ZipFile, path: Path) -> set[str]:
    """Return the names of the members; raises `UserError` for one that no bundle holds, or that is too large."""
    names: set[str] = set()
    for member in archive.infolist():
        name, mode = member.orig_filename, member.external_attr >> 16
        if name not in MEMBER_LIMITS and not RELEASED_MEMBER.fullmatch(name):
            raise UserError(
                f"{path} holds a member {ascii(name)[:100]}; a bundle holds {MANIFEST_MEMBER}, "
                f"{RESULTS_MEMBER}, {LOG_FILE} and noise/KEY.safetensors"
            )
        if name in names:
            raise UserError(f"{path} holds {name} twice")
        if member.flag_bits & 1:
            raise UserError(f"{path}: {name} is encrypted")
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise UserError(f"{path}: {name} is {'a link' if stat.S_ISLNK(mode) else 'not a plain file'}")
        if member.compress_type != zipfile.ZIP_STORED:
            raise UserError(f"{path}: {name} is compressed; members of a bundle are stored as they are")
        size_limit = MEMBER_LIMITS.get(name, LARGEST_BUNDLE)
        if member.file_size > size_limit:
            raise UserError(f"{path}: {name} has {member.file_size} bytes; at most {size_limit}")
        names.add(name)
    if sum(member.file_size for member in archive.infolist()) > LARGEST_BUNDLE:
        raise UserError(f"{path} states more bytes of members than a bundle can hold")
    for name in (MANIFEST_MEMBER, RESULTS_MEMBER):
        if name not in names:
            raise UserError(f"{path} holds no {name}")
    return names
