"""Writes files whole or not at all; canonical JSON and SHA-256."""

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
def reporting_write_errors(path: Path) -> Iterator[None]:
    """Turn a failed write (full disk, no permission) into one clear line; raises `StoreError`."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}") from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that readers see the old content or the new one, never a part; raises `StoreError`."""
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
    """Remove what killed processes left of their writes to a file; only for the holder of its lock."""
    with reporting_write_errors(path):
        for scratch in path.parent.glob(f".{path.name}.*"):
            scratch.unlink(missing_ok=True)


def sha256_hex(content: bytes) -> str:
    """Return the SHA-256 of some bytes in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def canonical_json(value: Any) -> bytes:
    """Return the canonical JSON text of a value: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
