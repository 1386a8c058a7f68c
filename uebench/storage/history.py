"""The decisions of maintainers about a board, one per line in `history.jsonl`, and the rulings that follow."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from uebench.components.errors import UserError
from uebench.storage.atomic_files import write_atomically
from uebench.storage.strict_json import StrictStruct, check_shape, parse_strict_json

HISTORY_FILE = "history.jsonl"
HISTORY_SCHEMA = 1
Badge = Literal["claimed", "valid", "re-run"]
"""How far an entry was checked: handed in; complete and plausible; a sample of its cells run again and equal."""


class BoardValue(StrictStruct):
    """Status, residual protection and worst breaker of a noise on a board."""

    status: str
    residual_protection: float | None
    worst_breaker: str | None


class _Change(StrictStruct):
    board: str
    noise: str
    old: BoardValue | None
    new: BoardValue


class _Rerun(StrictStruct):
    cells: int
    seed: int
    deviations: float


class _Event(StrictStruct, tag_field="event"):
    """A line; `date` is in UTC, components go by canonical text."""

    schema: Literal[1]
    date: str
    changes: list[_Change]


class _Accepted(_Event, tag="accepted"):
    bundle: str
    dataset: str
    noises: list[str]
    breaker: str
    badge: Badge
    submitter: str
    paper: str
    rerun: _Rerun | None


class _Withdrawn(_Event, tag="withdrawn"):
    noise: str
    reason: str


@dataclass(frozen=True)
class Rulings:
    """The current rulings of a board; noises, breakers and data sets go by canonical text.

    `badges` are by data set and noise, `withdrawn` has the reason by noise, `challenges` the breakers that were
    accepted against a noise, `bundles` the badge by the SHA-256 of an accepted bundle.
    """

    badges: Mapping[tuple[str, str], str] = field(default_factory=dict)
    withdrawn: Mapping[str, str] = field(default_factory=dict)
    challenges: Mapping[str, Sequence[str]] = field(default_factory=dict)
    bundles: Mapping[str, str] = field(default_factory=dict)


def read_history(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a board's history, oldest first; a missing file has none. Raises `UserError`."""
    path = folder / HISTORY_FILE
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    events = []
    for number, line in enumerate(lines, 1):
        source = f"{path} line {number}"
        event = parse_strict_json(line, source)
        check_shape(event, _Accepted | _Withdrawn, source)
        events.append(event)
    return events


def current_rulings(lines: Iterable[Mapping[str, Any]]) -> Rulings:
    """Return the rulings that follow from the lines of a history."""
    badges, withdrawn, challenges, bundles = (
        dict[Any, str](),
        dict[str, str](),
        dict[str, list[str]](),
        dict[str, str](),
    )
    for line in lines:
        if line["event"] == "withdrawn":
            withdrawn[line["noise"]] = line["reason"]
            continue
        bundles[line["bundle"]] = line["badge"]
        for noise in line["noises"]:
            if line["breaker"]:
                challenges.setdefault(noise, []).append(line["breaker"])
            else:
                badges[line["dataset"], noise] = line["badge"]
    return Rulings(badges, withdrawn, challenges, bundles)


def append_decision(folder: Path, event: str, date: str, changes: Sequence[Mapping[str, Any]], **content: Any) -> None:
    """Add a line to a board's history; raises `StoreError`."""
    lines = [
        *read_history(folder),
        {"schema": HISTORY_SCHEMA, "event": event, "date": date, "changes": changes, **content},
    ]
    text = "".join(json.dumps(line, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n" for line in lines)
    write_atomically(folder / HISTORY_FILE, text.encode())
