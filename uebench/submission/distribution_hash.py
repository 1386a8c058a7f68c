"""What a distribution consists of: one hash over its files, the same wherever the same release is installed."""

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

    For each file the hash takes its name and its own SHA-256. Compiled files, scripts and what the installation adds
    are left out. An editable installation has no files of its own: there the Python files of the packages that its
    entry points name are taken.
    """
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    whole = hashlib.sha256()
    for label, path in _editable(distribution) if _is_editable(distribution) else _recorded(distribution):
        whole.update(label.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return distribution.version, whole.hexdigest()


def _is_editable(distribution: importlib.metadata.Distribution) -> bool:
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    return bool(origin.get("dir_info", {}).get("editable"))


def _recorded(distribution: importlib.metadata.Distribution) -> Iterator[tuple[str, Path]]:
    for file in distribution.files or ():
        path = Path(str(distribution.locate_file(file)))
        if file.suffix != ".pyc" and file.name not in LOCAL_FILES and ".." not in file.parts and path.is_file():
            yield file.as_posix(), path


def _editable(distribution: importlib.metadata.Distribution) -> Iterator[tuple[str, Path]]:
    for package in sorted({point.module.partition(".")[0] for point in distribution.entry_points}):
        found = importlib.util.find_spec(package)
        folders = [Path(place) for place in (found and found.submodule_search_locations) or ()]
        for path in sorted(path for folder in folders for path in folder.rglob("*.py")):
            yield f"{package}/{path.name}", path
        if found and found.origin and not folders:
            yield Path(found.origin).name, Path(found.origin)
