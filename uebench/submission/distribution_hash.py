"""Hashes the files of an installed distribution: the same hash wherever the same release is installed."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

LOCAL_FILES = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json")
"""Files that an installation adds to those of the release."""


def hash_distribution(name: str) -> tuple[str, str] | None:
    """Return version and SHA-256 of an installed distribution, over its files in the order of its RECORD; else None.

    The hash covers the path and the SHA-256 of each file, without compiled files, scripts and files that the
    installation adds. An editable installation has no files of its own: its hash covers the Python files of the
    packages that its entry points name, each by its path in the package.
    """
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    digest = hashlib.sha256()
    for name_in_package, path in (_package_files if _is_editable(distribution) else _recorded_files)(distribution):
        digest.update(name_in_package.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return distribution.version, digest.hexdigest()


def _is_editable(distribution: importlib.metadata.Distribution) -> bool:
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    return bool(origin.get("dir_info", {}).get("editable"))


def _recorded_files(distribution: importlib.metadata.Distribution) -> Iterator[tuple[str, Path]]:
    for file in distribution.files or ():
        path = Path(str(distribution.locate_file(file)))
        if file.suffix != ".pyc" and file.name not in LOCAL_FILES and ".." not in file.parts and path.is_file():
            yield file.as_posix(), path


def _package_files(distribution: importlib.metadata.Distribution) -> Iterator[tuple[str, Path]]:
    """Yield the Python files of an editable distribution's packages, each with its path in the package."""
    for package in sorted({point.module.partition(".")[0] for point in distribution.entry_points}):
        spec = importlib.util.find_spec(package)
        folders = [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]
        for folder in folders:
            for path in sorted(folder.rglob("*.py")):
                yield f"{package}/{path.relative_to(folder).as_posix()}", path
        if spec and spec.origin and not folders:
            yield Path(spec.origin).name, Path(spec.origin)
