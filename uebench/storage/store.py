"""Finished and half-finished work on disk: a folder per key, written whole or not at all, checked when it is read."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import filelock
import msgspec
import safetensors
import safetensors.torch
import torch

from uebench.storage.atomic_files import (
    canonical_json,
    remove_scratch_files,
    reporting_write_errors,
    sha256_hex,
    write_atomically,
)

MANIFEST_FILE, LOG_FILE = "manifest.json", "log.jsonl"


class Busy(Exception):
    """Another process is at work on this key."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:  # sooner, where ten thousand small files are read
        return file.readall()


def _digest_file(path: Path | str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _apart(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors on the host, none of which shares memory with another: tied weights are written twice."""
    found, seen = dict[str, torch.Tensor](), set[int]()
    for name, value in tensors.items():
        own = value.cpu().contiguous()
        place = own.untyped_storage().data_ptr()
        found[name] = own.clone() if place in seen else own
        seen.add(place)
    return found


def _write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    try:
        safetensors.torch.save_file(_apart(tensors), path)
    except safetensors.SafetensorError as error:
        raise OSError(str(error)) from error
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _silent(line: str) -> None:
    """Say nothing; a function with a name, so that a store can be sent to a process."""


class Store:
    """A folder of content-addressed work: `done/<key>/` finished, `half/<key>` resumable, `locks/<key>`, `data/`.

    `half/<key>.log` is the log of a job at work. `say` receives a line about everything found damaged.
    """

    def __init__(self, root: Path, say: Callable[[str], None] = _silent) -> None:
        self.root, self.say = root, say

    @property
    def data(self) -> Path:
        """The folder lent to data sources."""
        return self.root / "data"

    def prepare(self) -> None:
        """Make the folder and try a write; raises `StoreError`."""
        write_atomically(self.root / ".gitignore", b"*\n")

    def _done(self, key: str) -> str:
        return f"{self.root}/done/{key[:2]}/{key}"

    def _half(self, key: str) -> Path:
        return self.root / "half" / key

    def _log(self, key: str) -> Path:
        return self.root / "half" / f"{key}.log"

    @contextmanager
    def lock(self, key: str, wait: bool = False) -> Iterator[None]:
        """Hold a key against other processes; a killed one lets go. Raises `Busy` where it is held, unless `wait`."""
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

    def save(self, key: str, files: Mapping[str, bytes | Mapping[str, torch.Tensor]]) -> None:
        """Finish a key: write its files and their checksums to a scratch folder, then move it into place at once.

        A file is bytes, or tensors by name, which become a safetensors file. What was noted of the key goes along.
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
                        _write_tensors(scratch / name, content)
                manifest = canonical_json({name: _digest_file(scratch / name) for name in files})
                write_atomically(scratch / MANIFEST_FILE, manifest + f"\n{sha256_hex(manifest)}".encode())
                if final.exists():
                    shutil.rmtree(final)
                os.replace(scratch, final)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        self.forget(key)

    def find(self, key: str, thorough: bool = True) -> dict[str, Path] | None:
        """Return every file of a finished key, or None where it is not finished or, with a word, damaged.

        Unless `thorough`, no file is read that was not written to since it was finished: for what is not used now.
        """
        found = self._sealed(key, thorough)
        return None if found is None else {name: Path(path) for name, (path, _) in found.items()}

    def holds(self, key: str) -> bool:
        """Tell whether a key was finished; that nothing of it is damaged is not looked for."""
        return os.path.isdir(self._done(key))

    def read(self, key: str, name: str) -> bytes | None:
        """Return what is in one file of a finished key; None where it is not finished or, with a word, damaged."""
        found = self._sealed(key, thorough=False)
        if found is None:
            return None
        path, expected = found[name]
        try:
            content = _read(path)
        except OSError:
            content = b""
        if sha256_hex(content) != expected:
            self._damaged(path)
            return None
        return content

    def _sealed(self, key: str, thorough: bool) -> dict[str, tuple[str, str]] | None:
        """Return path and checksum of every file of a finished key, as `find` does.

        Paths are text here: ten thousand finished cells are looked through, and `Path` would take half of the time.
        """
        folder = self._done(key)
        path, found = f"{folder}/{MANIFEST_FILE}", dict[str, tuple[str, str]]()
        try:
            manifest, _, seal = _read(path).rpartition(b"\n")
            sound = sha256_hex(manifest).encode() == seal
            sealed = os.stat(path).st_mtime_ns
            for name, expected in msgspec.json.decode(manifest).items() if sound else ():
                path = f"{folder}/{name}"
                found[name] = path, expected
                untouched = os.stat(path).st_mtime_ns <= sealed
                sound = (untouched and not thorough) or _digest_file(path) == expected
                if not sound:
                    break
        except OSError:
            if not os.path.isdir(folder):
                return None
            sound = False
        if not sound:
            self._damaged(path)
        return found if sound else None

    def _damaged(self, path: str) -> None:
        self.say(f"{path} does not match its checksum; it will be made again")

    def note(self, key: str, line: str) -> None:
        """Add a line to the log of a key that is at work."""
        path = self._log(key)
        with reporting_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(line.encode() + b"\n")

    def keep(self, key: str, state: Mapping[str, torch.Tensor]) -> None:
        """Write the half-finished state of a key, with a checksum."""
        content = safetensors.torch.save(_apart(state))
        write_atomically(self._half(key), sha256_hex(content).encode() + content)

    def kept(self, key: str) -> dict[str, torch.Tensor]:
        """Return the half-finished state of a key; empty where there is none or, with a word, a damaged one."""
        path = self._half(key)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return {}
        if sha256_hex(content[64:]).encode() != content[:64]:
            self.say(f"{path} does not match its checksum; that job starts over")
            return {}
        return safetensors.torch.load(content[64:])

    def forget(self, key: str) -> None:
        """Remove the half-finished state of a key, and its log."""
        with reporting_write_errors(self._half(key)):
            self._half(key).unlink(missing_ok=True)
            self._log(key).unlink(missing_ok=True)
        remove_scratch_files(self._half(key))
