"""Files that are written whole or not at all, and the one JSON text of a value."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from uebench.components.errors import StoreError


@contextmanager
def reporting_write_errors(place: Path) -> Iterator[None]:
    """Turn a failed write (full disk, no permission) into one clear line; raises `StoreError`."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"cannot write {place}: {error.strerror or error}") from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part; raises `StoreError`."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    with reporting_write_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(scratch, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(scratch, path)
        finally:
            scratch.unlink(missing_ok=True)


def remove_scratch_files(path: Path) -> None:
    """Remove what killed processes left of their writes to a file; for the holder of a lock on it."""
    with reporting_write_errors(path):
        for scratch in path.parent.glob(f".{path.name}.*"):
            scratch.unlink(missing_ok=True)


def sha256_hex(content: bytes) -> str:
    """Return the SHA-256 of some bytes in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def canonical_json(value: Any) -> bytes:
    """Return the one JSON text of a value: sorted keys, no spare space."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
