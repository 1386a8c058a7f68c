"""The result record of one cell, schema 1, to and from a line of JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any, get_type_hints

import orjson

from uebench import grammar
from uebench.component import UserError
from uebench.untrusted import conform

SCHEMA = 1
LATER = ("chosen", "trials")
"""The fields of a breaker that chooses; no other record has them."""
NAMES = ("suite", "dataset", "noise", "breaker", "target", "parameters", "protected", "kind", "recipe")
"""The fields that follow from the suite and the key."""
VARYING = ("noise_seconds", "train_seconds", "finished", "made_with", "peak_bytes")
"""The fields that may differ between two equal runs: times, and where they ran."""


@dataclass(frozen=True)
class Result:
    """One trained network's record. Accuracies are in [0, 1], over the whole clean test set; seconds are wall time.

    Where the breaker chooses, `chosen` is the chain that was used, and `trials` has the accuracy of each on the
    released images that were held out. Both are left out of a line where no breaker chooses.
    """

    key: str
    suite: str
    dataset: str
    noise: str
    breaker: str
    target: str
    parameters: Mapping[str, str]
    protected: float
    kind: str
    seed: int
    recipe: str
    test_accuracy: float
    train_accuracy: float
    best_test_accuracy: float
    curve: Sequence[Mapping[str, float]]
    noise_linf: float
    noise_l2: float
    psnr: float | None
    ssim: float
    noise_seconds: float
    train_seconds: float
    peak_bytes: int | None
    flags: Sequence[str]
    made_with: Mapping[str, Any]
    finished: str
    noise_norm: str = "linf"
    chosen: str = ""
    trials: Mapping[str, float] = field(default_factory=dict)
    schema: int = SCHEMA

    def line(self) -> str:
        """Return the record as one line of JSON: sorted keys, no NaN."""
        left_out = () if self.chosen else LATER
        table = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in left_out}
        return json.dumps(table, sort_keys=True, allow_nan=False, ensure_ascii=False)

    def same_numbers(self, other: Result) -> bool:
        """Tell whether two records agree in everything that an equal run reproduces."""
        names = [one.name for one in fields(self) if one.name not in VARYING]
        return all(getattr(self, name) == getattr(other, name) for name in names)

    def told_by(self, line: bytes) -> bool:
        """Tell whether a line of JSON, of the same key and known to be sound, has these numbers, whatever its names.

        It may be false where it could be true.
        """
        table = orjson.loads(line)
        return not self.chosen and all(getattr(self, name) == table.get(name) for name in NUMBERS)


NUMBERS = [one.name for one in fields(Result) if one.name not in {*NAMES, *VARYING, *LATER}]
SHAPE = {
    **{one.name: get_type_hints(Result)[one.name] for one in fields(Result)},
    "parameters": dict.fromkeys(("content", "dataset", "noise", "breaker", "target", "recipe"), str),
    "curve": [{"step": int, "test_accuracy": float, "train_accuracy": float}],
    "psnr": (float, type(None)),
    "peak_bytes": (int, type(None)),
    "flags": [str],
    "made_with": dict,
    "trials": {str: float},
}
KINDS = ("mixed", "clean-only")
LARGEST = 2**53
"""Beyond it not every whole number is a float."""
SHARE = (0.0, 1.0)
RANGES = {
    **dict.fromkeys(("test_accuracy", "train_accuracy", "best_test_accuracy", "protected", "noise_linf"), SHARE),
    **dict.fromkeys(("noise_l2", "noise_seconds", "train_seconds", "peak_bytes"), (0, LARGEST)),
    "psnr": (-1e3, 1e3),
    "ssim": (-1.01, 1.01),  # rounding
    "seed": (0, 2**32 - 1),
}


def parse(text: str, place: str = "result") -> Result:
    """Read one record; raises `UserError` that names the place, the field and what is wrong.

    What it returns has the types, shapes and ranges that ranks, tables and figures rely on. Whether a run can have
    written it, submissions are asked besides.
    """
    try:
        table = orjson.loads(text)
    except ValueError as error:  # also for infinities, half a character, and what is nested without end
        raise UserError(f"{place} is no JSON: {error}") from None
    if not isinstance(table, dict):
        raise UserError(f"{place} is no record")
    if table.get("schema") != SCHEMA:
        raise UserError(f"{place} has schema {table.get('schema')!r}; this version reads {SCHEMA}")
    table.setdefault("noise_norm", "linf")  # records older than other norms
    table = {"chosen": "", "trials": {}, **table}
    conform(table, SHAPE, place)
    conform(table["made_with"].get("device"), str, f"{place}, made_with, device")
    conform(table["made_with"].get("plugins", {}), {str: str}, f"{place}, made_with, plugins")
    for name, (low, high) in RANGES.items():
        if table[name] is not None and not low <= table[name] <= high:
            raise _beyond(table[name], low, high, f"{place}: {name}")
    if table["protected"] == 0:
        raise UserError(f"{place}: protected must be above 0")
    if table["kind"] not in KINDS:
        raise UserError(f"{place}: kind must be {' or '.join(KINDS)}, not {table['kind'][:40]!r}")
    members = _members(table["parameters"]["breaker"], f"{place}, parameters, breaker")
    if _members(table["breaker"], f"{place}, breaker") != members:
        raise UserError(f"{place}: breaker {table['breaker'][:60]!r} is no name of a chain of {members}")
    last = 0
    for row in table["curve"]:
        if not last < row["step"] <= LARGEST:
            raise _beyond(row["step"], last + 1, LARGEST, f"{place}: step of the curve")
        for name in ("test_accuracy", "train_accuracy"):
            if not 0 <= row[name] <= 1:
                raise _beyond(row[name], *SHARE, f"{place}: {name} of the curve")
        last = row["step"]
    _check_choice(table["chosen"], table["trials"], place)
    return Result(**table)


@lru_cache(maxsize=1024)
def _apart(text: str) -> int:
    return len([grammar.apart(member) for member in grammar.split(text, "+")])


def _members(text: str, place: str) -> int:
    """Return the number of members of a chain, which figures take apart; raises `UserError`."""
    try:
        return _apart(text)
    except UserError as error:
        raise UserError(f"{place}: {error}") from None


def _beyond(value: float, low: float, high: float, place: str) -> UserError:
    return UserError(f"{place} must lie in [{low:.16g}, {high:.16g}], not {value!r}")


def _check_choice(chosen: str, trials: Mapping[str, float], place: str) -> None:
    """Raise `UserError` unless nothing was chosen, or a chain that did best of those that were tried."""
    for name, accuracy in trials.items():
        if not 0 <= accuracy <= 1:
            raise _beyond(accuracy, *SHARE, f"{place}: accuracy of the trial {name[:60]!r}")
    if (chosen or trials) and (chosen not in trials or trials[chosen] < max(trials.values())):
        raise UserError(f"{place}: chosen is {chosen!r}, which did not do best of {str(trials)[:60]}")
