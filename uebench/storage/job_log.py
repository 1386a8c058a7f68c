"""The log of a job, one line of JSON per event; it stays with the files of the finished job."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from uebench.components.errors import UserError
from uebench.storage.result import Result
from uebench.storage.store import LOG_FILE, Store
from uebench.storage.strict_json import StrictStruct, check_shape, parse_strict_json


class _Event(StrictStruct, tag_field="event"):
    """A line; `time` is in UTC. Beside the files of its job a line has no key."""

    key: str
    time: str


class Started(_Event, tag="started"):
    """A job begins, on this device."""

    device: str
    threads: int | None
    torch: str
    uebench: str


class _Resumed(_Event, tag="resumed"):
    step: int


class _Step(_Event, tag="step"):
    step: int
    of: int
    loss: float | None  # null where none was reported, or it is not finite


class _Tested(_Event, tag="tested"):
    """The network of a cell was trained and tested; its record has the same accuracies."""

    test_accuracy: float
    train_accuracy: float


class _Failed(_Event, tag="failed"):
    error: str


def log_event(store: Store, key: str, event: str, **content: Any) -> None:
    """Add an event to the log of a running job; raises `StoreError`."""
    time = datetime.now(UTC).isoformat(timespec="seconds")
    store.note(key, json.dumps({"event": event, "time": time, **content}, sort_keys=True, allow_nan=False))


def read_job_log(key: str, files: Mapping[str, Path]) -> Iterator[dict[str, Any]]:
    """Yield the lines of a finished job's log, each with the key; very old jobs have no log."""
    started = False
    for line in files[LOG_FILE].read_bytes().splitlines() if LOG_FILE in files else ():
        try:
            event = json.loads(line)
        except ValueError:
            continue  # a kill or a full disk cut it short
        started = started or event["event"] == "started"
        if started:
            yield {"key": key, **event}


def parse_job_log(content: bytes, source: str) -> list[dict[str, Any]]:
    """Return the lines of an untrusted log, each with the key of its job; raises `UserError`."""
    events = []
    for number, line in enumerate(content.splitlines(), 1):
        where = f"{source} line {number}"
        event = parse_strict_json(line, where)
        check_shape(event, Started | _Resumed | _Step | _Tested | _Failed, where)
        events.append(event)
    return events


def check_job_log(
    events: Sequence[Mapping[str, Any]], records: Mapping[str, Result | None], steps: int, now: datetime
) -> None:
    """Raise `UserError` for a log that jobs cannot have written, or that does not bear out the records.

    `records` has the record of each cell by key, None for a noise. A cell takes `steps` steps.
    """
    devices = {key: record.made_with["device"] if record else "" for key, record in records.items()}
    used, tested = dict[str, str](), dict[str, Mapping[str, Any]]()
    for line in events:
        key, event, source = line["key"], line["event"], f"the log of {line['key'][:40]!r}"
        if key not in devices:
            raise UserError(f"{source} is of no job of the bundle")
        if event == "started":
            used[key] = line["device"]
        if key not in used:
            raise UserError(f"{source} does not begin with a start")
        _check_time(line["time"], now, source)
        most = line["of"] if event == "step" else 0
        if event == "step" and (not 0 <= line["step"] <= most or (devices[key] and most != steps)):
            raise UserError(f"{source} is at step {line['step']} of {most}; a network is trained for {steps}")
        if event == "tested":
            tested[key] = line
    for key, line in tested.items():
        for name in ("test_accuracy", "train_accuracy"):
            recorded = getattr(records[key], name, None)
            if line[name] != recorded:
                raise UserError(f"the log of {key} has {name} {line[name]!r}, the result {recorded!r}")
    for key, device in used.items():
        if devices[key] not in ("", device):
            raise UserError(f"the log of {key} is of {device!r}, the result of {devices[key]!r}")


def _check_time(text: str, now: datetime, source: str) -> None:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise UserError(f"{source}: {text[:40]!r} is no time") from None
    if time.tzinfo is None or time > now:
        raise UserError(f"{source}: {text!r} {'has no time zone' if time.tzinfo is None else 'is in the future'}")
