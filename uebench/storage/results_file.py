"""A board's record of truth, `results.jsonl`: read, merged, written; every other file follows from it alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from uebench.components.errors import UserError
from uebench.storage.atomic_files import write_atomically
from uebench.storage.result import Result, parse_result


def read_results(path: Path) -> dict[str, Result]:
    """Return the records of a `results.jsonl` by key; a missing file has none. Raises `UserError` with the line."""
    try:
        return dict(_parsed(path.read_bytes().decode(), str(path)))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None


@lru_cache(maxsize=1)
def _parsed(text: str, path: str) -> dict[str, Result]:
    """Return the records of a text, kept: a run reads the same record before and after its work."""
    found: dict[str, Result] = {}
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else (), 1):  # a text may hold other ends
        one = parse_result(line, f"{path} line {number}")
        if one.key in found:
            raise UserError(f"{path} line {number}: key {one.key} stands there twice")
        found[one.key] = one
    return found


def merge_results(recorded: Mapping[str, Result], fresh: Iterable[Result]) -> tuple[dict[str, Result], list[str]]:
    """Add new records to those on record; where the numbers of a key differ the old stay and a line says so."""
    merged, conflicts = dict(recorded), []
    for result in fresh:
        old = merged.setdefault(result.key, result)
        if old is not result and not old.same_numbers(result):
            cell = f"{result.noise} / {result.breaker} / {result.target} seed {result.seed}"
            here, recorded_on = result.made_with["device"], old.made_with["device"]
            conflicts.append(
                f"{cell}: {result.test_accuracy:.4f} here ({here}), "
                f"{old.test_accuracy:.4f} on record ({recorded_on}); kept"
            )
    return merged, conflicts


def write_results(path: Path, results: Mapping[str, Result]) -> None:
    """Write records, sorted by key, one a line."""
    write_atomically(path, "".join(results[key].line() + "\n" for key in sorted(results)).encode())
