"""The result record of one cell, schema 1, to and from a line of JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, structs

from uebench.components.errors import UserError
from uebench.components.grammar import parse_label, split_outside_parentheses
from uebench.storage.strict_json import check_shape, shape_error

RESULT_SCHEMA = 1
CHOICE_FIELDS = ("chosen", "trials")
"""The fields of a breaker that chooses; no other record has them."""
LABEL_FIELDS = ("suite", "dataset", "noise", "breaker", "target", "parameters", "protected", "kind", "recipe")
"""The fields that follow from the suite and the key."""
VARYING_FIELDS = ("noise_seconds", "train_seconds", "finished", "made_with", "peak_bytes")
"""The fields that may differ between two equal runs: times, and where they ran."""
PARAMETER_FIELDS = {"content", "dataset", "noise", "breaker", "target", "recipe"}
LARGEST = 2**53
"""Beyond it not every whole number is a float."""
Share = Annotated[float, Meta(ge=0, le=1)]
Amount = Annotated[float, Meta(ge=0, le=LARGEST)]


class CurvePoint(Struct, frozen=True, forbid_unknown_fields=True):
    """An evaluation on the way: steps taken so far, accuracies in [0, 1].

    `loss` is the mean training loss since the point before, `attacked_accuracy` that of the last training batch under a
    strong attack, where the breaker attacks. Records older than these lack both.
    """

    step: Annotated[int, Meta(ge=1, le=LARGEST)]
    test_accuracy: Share
    train_accuracy: Share
    loss: Amount | None = None
    attacked_accuracy: Share | None = None


def _plain(point: CurvePoint) -> dict[str, Any]:
    """Return a point as a table, without what it lacks."""
    return {name: value for name, value in structs.asdict(point).items() if value is not None}


class Result(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One trained network's record. Accuracies are in [0, 1], over the whole clean test set; seconds are wall time.

    Where the breaker chooses, `chosen` is the chain that was used, and `trials` has the accuracy of each on the
    released images that were held out. Both are left out of a line where no breaker chooses. What is read has these
    types and ranges; what is constructed is not checked.
    """

    key: str
    suite: str
    dataset: str
    noise: str
    breaker: str
    target: str
    parameters: Mapping[str, str]
    protected: Annotated[float, Meta(gt=0, le=1)]
    kind: Literal["mixed", "clean-only"]
    seed: Annotated[int, Meta(ge=0, lt=2**32)]
    recipe: str
    test_accuracy: Share
    train_accuracy: Share
    best_test_accuracy: Share
    curve: Sequence[CurvePoint]
    noise_linf: Share
    noise_l2: Amount
    psnr: Annotated[float, Meta(ge=-1e3, le=1e3)] | None
    ssim: Annotated[float, Meta(ge=-1.01, le=1.01)]  # rounding
    noise_seconds: Amount
    train_seconds: Amount
    peak_bytes: Annotated[int, Meta(ge=0, le=LARGEST)] | None
    flags: Sequence[str]
    made_with: Mapping[str, Any]
    finished: str
    noise_norm: str = "linf"  # records older than other norms lack it
    chosen: str = ""
    trials: Mapping[str, Share] = {}
    schema: int = RESULT_SCHEMA

    def line(self) -> str:
        """Return the record as one line of JSON: sorted keys, no NaN."""
        left_out = () if self.chosen else CHOICE_FIELDS
        table = {name: value for name, value in structs.asdict(self).items() if name not in left_out}
        return json.dumps(table, sort_keys=True, allow_nan=False, ensure_ascii=False, default=_plain)

    def same_numbers(self, other: Result) -> bool:
        """Tell whether two records agree in everything that an equal run reproduces."""
        return bool(_reproduced(self) == _reproduced(other))

    def told_by(self, line: bytes) -> bool:
        """Tell whether a line of JSON, of the same key and known to be sound, has these numbers, whatever its names.

        It may be false where it could be true.
        """
        try:
            other = _RESULT.decode(line)
        except msgspec.DecodeError:  # of another version
            return False
        return not self.chosen and _numbers(self) == _numbers(other)


_reproduced = attrgetter(*(name for name in Result.__struct_fields__ if name not in VARYING_FIELDS))
_numbers = attrgetter(
    *(name for name in Result.__struct_fields__ if name not in {*VARYING_FIELDS, *LABEL_FIELDS, *CHOICE_FIELDS})
)


class _Versioned(Struct):
    schema: Any = None


class _MadeWith(Struct):
    """What every record says of where it was made, among other things."""

    device: str
    plugins: dict[str, str] = {}


_Facts: Any = dict[str, str | int | bool | dict[str, str] | None]
_VERSIONED, _RESULT = msgspec.json.Decoder(_Versioned), msgspec.json.Decoder(Result)


def parse_result(text: str | bytes, place: str = "result") -> Result:
    """Read one record; raises `UserError` that names the place, the field and what is wrong.

    What it returns has the types, shapes and ranges that ranks, tables and figures rely on. Whether a run can have
    written it, submissions are asked besides.
    """
    try:
        schema = _VERSIONED.decode(text).schema
        if schema != RESULT_SCHEMA:
            raise UserError(f"{place} has schema {repr(schema)[:40]}; this version reads {RESULT_SCHEMA}")
        one = _RESULT.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise shape_error(error, place) from None
    for shape in (_MadeWith, _Facts):
        check_shape(one.made_with, shape, f"{place}, made_with")
    if one.parameters.keys() != PARAMETER_FIELDS:
        raise UserError(f"{place}: parameters must be of {', '.join(sorted(PARAMETER_FIELDS))}")
    members = _members(one.parameters["breaker"], f"{place}, parameters, breaker")
    if _members(one.breaker, f"{place}, breaker") != members:
        raise UserError(f"{place}: breaker {one.breaker[:60]!r} is no name of a chain of {members}")
    steps = [point.step for point in one.curve]
    if steps != sorted({*steps}):
        raise UserError(f"{place}: the steps of the curve must ascend, not {str(steps)[:60]}")
    if one.chosen or one.trials:
        _check_choice(one.chosen, one.trials, place)
    return one


@lru_cache(maxsize=1024)
def _apart(text: str) -> int:
    return len([parse_label(member) for member in split_outside_parentheses(text, "+")])


def _members(text: str, place: str) -> int:
    """Return the number of members of a chain, which figures take apart; raises `UserError`."""
    try:
        return _apart(text)
    except UserError as error:
        raise UserError(f"{place}: {error}") from None


def _check_choice(chosen: str, trials: Mapping[str, float], place: str) -> None:
    """Raise `UserError` unless a chain was chosen that did best of those that were tried."""
    if chosen not in trials or trials[chosen] < max(trials.values()):
        raise UserError(f"{place}: chosen is {chosen!r}, which did not do best of {str(trials)[:60]}")
