"""Reads, merges and writes `results.jsonl`, the record of a board from which every other file follows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from uebench.components.errors import UserError
from uebench.storage.atomic_files import write_atomically
from uebench.storage.result import Result, parse_result

RESULTS_FILE = "results.jsonl"
"""The name of a record in the folder of its board."""


def read_results(path: Path) -> dict[str, Result]:
    """Return the records of a `results.jsonl` by key; a missing file has none. Raises `UserError` with the line."""
    try:
        return dict(_parse_results(path.read_bytes().decode(), str(path)))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None


@lru_cache(maxsize=1)
def _parse_results(text: str, path: str) -> dict[str, Result]:
    """Return the records of a text; cached, as a run reads the same record before and after its work."""
    results: dict[str, Result] = {}
    for number, line in enumerate(
        text.removesuffix("\n").split("\n") if text else (), 1
    ):  # texts may hold other line ends
        result = parse_result(line, f"{path} line {number}")
        if result.key in results:
            raise UserError(f"{path} line {number}: key {result.key} stands there twice")
        results[result.key] = result
    return results


def merge_results(recorded: Mapping[str, Result], new: Iterable[Result]) -> tuple[dict[str, Result], list[str]]:
    """Add new records to those of a board; where the numbers of a key differ, the old ones stay and a line says so."""
    merged, conflicts = dict(recorded), []
    for result in new:
        old = merged.setdefault(result.key, result)
        if old is not result and not old.same_numbers(result):
            cell = f"{result.noise} / {result.breaker} / {result.target} seed {result.seed}"
            device, recorded_device = result.made_with["device"], old.made_with["device"]
            conflicts.append(
                f"{cell}: {result.test_accuracy:.4f} here ({device}), "
                f"{old.test_accuracy:.4f} on record ({recorded_device})"
            )
    return merged, conflicts


def write_results(path: Path, results: Mapping[str, Result]) -> None:
    """Write records, one per line, sorted by key."""
    write_atomically(path, results_text(results).encode())


def results_text(results: Mapping[str, Result]) -> str:
    """Return the text of a record: one line of JSON a result, sorted by key."""
    return "".join(results[key].line() + "\n" for key in sorted(results))
