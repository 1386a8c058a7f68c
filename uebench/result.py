"""The result record of one cell, schema 1, to and from a line of JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, get_type_hints

from uebench.api import UserError

SCHEMA = 1
LATER = ("chosen", "trials")
"""The fields of a breaker that chooses; no other record has them."""
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
        table = asdict(self)
        for name in LATER if not self.chosen else ():
            del table[name]
        return json.dumps(table, sort_keys=True, allow_nan=False, ensure_ascii=False)

    def same_numbers(self, other: Result) -> bool:
        """Tell whether two records agree in everything that an equal run reproduces."""
        mine, theirs = asdict(self), asdict(other)
        return all(mine[name] == theirs[name] for name in mine if name not in VARYING)


def parse(text: str, place: str = "result") -> Result:
    """Read one record; raises `UserError` that names the place, the field and what is wrong."""
    try:
        table = json.loads(text)
    except ValueError as error:
        raise UserError(f"{place} is no JSON: {error}") from None
    if not isinstance(table, dict):
        raise UserError(f"{place} is no record")
    if table.get("schema") != SCHEMA:
        raise UserError(f"{place} has schema {table.get('schema')!r}; this version reads {SCHEMA}")
    names = {one.name for one in fields(Result)}
    table.setdefault("noise_norm", "linf")  # records older than other norms
    table = {"chosen": "", "trials": {}, **table}
    if names != set(table):
        odd = sorted(names ^ set(table))
        raise UserError(f"{place}: missing or unknown fields: {', '.join(odd)}")
    hints = get_type_hints(Result)
    for name, kind in ((name, hints[name]) for name in names):
        value = table[name]
        expected = (int, float) if kind is float else kind
        if kind in (float, int, str) and (isinstance(value, bool) or not isinstance(value, expected)):
            raise UserError(f"{place}: {name} must be {kind.__name__}, not {value!r}")
        if name.endswith("accuracy") and not (math.isfinite(value) and 0 <= value <= 1):
            raise UserError(f"{place}: {name} must lie in [0, 1], not {value!r}")
    _check_choice(table["chosen"], table["trials"], place)
    return Result(**table)


def _check_choice(chosen: str, trials: Any, place: str) -> None:
    """Raise `UserError` unless nothing was chosen, or a chain that did best of those that were tried."""
    if not isinstance(trials, dict) or not all(type(one) in (int, float) and 0 <= one <= 1 for one in trials.values()):
        raise UserError(f"{place}: trials must have accuracies in [0, 1], not {str(trials)[:60]}")
    if (chosen or trials) and (chosen not in trials or trials[chosen] < max(trials.values())):
        raise UserError(f"{place}: chosen is {chosen!r}, which did not do best of {str(trials)[:60]}")
