"""Stores finished and half-finished work on disk: one folder per key, written whole or not at all, with checksums."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import filelock
import msgspec

from uebench.storage.atomic_files import (
    canonical_json,
    remove_scratch_files,
    reporting_write_errors,
    sha256_hex,
    write_atomically,
)

MANIFEST_FILE, LOG_FILE = "manifest.json", "log.jsonl"


class Busy(Exception):
    """Another process holds the lock of this key."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:  # faster for ten thousand small files
        return file.readall()


def _digest_file(path: Path | str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _ignore(line: str) -> None:
    """Ignore a line; a named function, so that a store can be sent to another process."""


class Store:
    """A folder of content-addressed work: `done/<key>/` finished, `half/<key>` resumable, `locks/<key>`, `data/`.

    `half/<key>.log` is the log of a running job. `report` receives a line about every damaged file.
    """

    def __init__(self, root: Path, report: Callable[[str], None] = _ignore) -> None:
        self.root, self.report = root, report

    @property
    def data(self) -> Path:
        """The folder for the files of data sources."""
        return self.root / "data"

    def prepare(self) -> None:
        """Make the folder and try to write into it; raises `StoreError`."""
        write_atomically(self.root / ".gitignore", b"*\n")

    def _done(self, key: str) -> str:
        return f"{self.root}/done/{key[:2]}/{key}"

    def _half(self, key: str) -> Path:
        return self.root / "half" / key

    def _log(self, key: str) -> Path:
        return self.root / "half" / f"{key}.log"

    @contextmanager
    def lock(self, key: str, wait: bool = False) -> Iterator[None]:
        """Hold the lock of a key; a killed process holds none. Raises `Busy` where another holds it, unless `wait`."""
        path = self.root / "locks" / key
        with reporting_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(path)
            try:
                lock.acquire(timeout=-1 if wait else 0)
            except filelock.Timeout:
                raise Busy(key) from None
        try:
            yield
        finally:
            lock.release()

    def save(self, key: str, files: Mapping[str, bytes | Callable[[Path], None]]) -> None:
        """Finish a key: write its files and their checksums to a scratch folder, then move it into place at once.

        A file is bytes, or a function that writes it to a path. The log of the key becomes one of the files.
        """
        if self._log(key).exists():
            files = {**files, LOG_FILE: self._log(key).read_bytes()}
        final = Path(self._done(key))
        scratch = final.with_name(f".{key}")
        with reporting_write_errors(final):
            shutil.rmtree(scratch, ignore_errors=True)
            try:
                scratch.mkdir(parents=True)
                for name, content in files.items():
                    if isinstance(content, bytes):
                        write_atomically(scratch / name, content)
                    else:
                        content(scratch / name)
                        _flush(scratch / name)
                manifest = canonical_json({name: _digest_file(scratch / name) for name in files})
                write_atomically(scratch / MANIFEST_FILE, manifest + f"\n{sha256_hex(manifest)}".encode())
                if final.exists():
                    shutil.rmtree(final)
                os.replace(scratch, final)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        self.forget(key)

    def find(self, key: str, thorough: bool = True) -> dict[str, Path] | None:
        """Return every file of a finished key; None where it is not finished, or damaged, which is reported.

        Unless `thorough`, files that were not written to since they were finished are not read.
        """
        files = self._sealed_files(key, thorough)
        return None if files is None else {name: Path(path) for name, (path, _) in files.items()}

    def holds(self, key: str) -> bool:
        """Return whether a key was finished, without a check for damage."""
        return os.path.isdir(self._done(key))

    def read(self, key: str, name: str) -> bytes | None:
        """Return the content of a file of a finished key; None where it is not finished, or damaged (reported)."""
        files = self._sealed_files(key, thorough=False)
        if files is None:
            return None
        path, expected = files[name]
        try:
            content = _read(path)
        except OSError:
            content = b""
        if sha256_hex(content) != expected:
            self._report_damage(path)
            return None
        return content

    def _sealed_files(self, key: str, thorough: bool) -> dict[str, tuple[str, str]] | None:
        """Return path and checksum of every file of a finished key, as `find` does.

        Paths are text here: for ten thousand finished cells `Path` would take half of the time.
        """
        folder = self._done(key)
        path, files = f"{folder}/{MANIFEST_FILE}", dict[str, tuple[str, str]]()
        try:
            manifest, _, seal = _read(path).rpartition(b"\n")
            sound = sha256_hex(manifest).encode() == seal
            sealed = os.stat(path).st_mtime_ns
            for name, expected in msgspec.json.decode(manifest).items() if sound else ():
                path = f"{folder}/{name}"
                files[name] = path, expected
                unmodified = os.stat(path).st_mtime_ns <= sealed
                sound = (unmodified and not thorough) or _digest_file(path) == expected
                if not sound:
                    break
        except OSError:
            if not os.path.isdir(folder):
                return None
            sound = False
        if not sound:
            self._report_damage(path)
        return files if sound else None

    def _report_damage(self, path: str) -> None:
        self.report(f"{path} does not match its checksum; it will be made again")

    def note(self, key: str, line: str) -> None:
        """Add a line to the log of a running job."""
        path = self._log(key)
        with reporting_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(line.encode() + b"\n")

    def keep(self, key: str, content: bytes) -> None:
        """Write the checkpoint of a running job, with a checksum."""
        write_atomically(self._half(key), sha256_hex(content).encode() + content)

    def kept(self, key: str) -> bytes:
        """Return the checkpoint of a job; empty where it has none, or a damaged one (reported)."""
        path = self._half(key)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return b""
        if sha256_hex(content[64:]).encode() != content[:64]:
            self.report(f"{path} does not match its checksum; that job starts over")
            return b""
        return content[64:]

    def forget(self, key: str) -> None:
        """Remove the checkpoint of a job, and its log."""
        with reporting_write_errors(self._half(key)):
            self._half(key).unlink(missing_ok=True)
            self._log(key).unlink(missing_ok=True)
        remove_scratch_files(self._half(key))
