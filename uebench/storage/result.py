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
"""Fields of breakers that choose; no other record has them."""
SEPARABILITY_FIELDS = ("separability_noise", "separability_released")
"""How well a linear classifier tells classes apart by the noise or by the released images; older records have none."""
LABEL_FIELDS = ("suite", "dataset", "noise", "breaker", "target", "recipe")
"""The labels that a suite gives; empty in the store, filled in when a result joins a board."""
KEY_FIELDS = ("parameters", "protected", "kind")
"""Fields that follow from the key."""
VARYING_FIELDS = ("noise_seconds", "train_seconds", "finished", "made_with", "peak_bytes")
"""Fields that may differ between two equal runs: times, and where they ran."""
PARAMETER_FIELDS = {"content", "dataset", "noise", "breaker", "target", "recipe"}
LARGEST = 2**53
"""The largest number up to which every whole number is a float."""
Share = Annotated[float, Meta(ge=0, le=1)]
Amount = Annotated[float, Meta(ge=0, le=LARGEST)]


class CurvePoint(Struct, frozen=True, forbid_unknown_fields=True):
    """An evaluation during training: the number of steps so far, accuracies in [0, 1].

    `loss` is the mean training loss since the previous point. `attacked_accuracy` is the accuracy on the last training
    batch under a strong attack, where the breaker attacks. Older records lack both.
    """

    step: Annotated[int, Meta(ge=1, le=LARGEST)]
    test_accuracy: Share
    train_accuracy: Share
    loss: Amount | None = None
    attacked_accuracy: Share | None = None


def _plain(point: CurvePoint) -> dict[str, Any]:
    """Return a point as a table, without unknown values."""
    return {name: value for name, value in structs.asdict(point).items() if value is not None}


class Result(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The record of one trained network. Accuracies are in [0, 1], on all clean test images; seconds are wall time.

    Where a breaker chooses, `chosen` is the chain that was used, and `trials` has the accuracy of each chain on
    held-out released images; other records lack both. Types and ranges are checked when a record is read, not when
    it is constructed.
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
    noise_norm: str = "linf"  # older records lack it
    chosen: str = ""
    trials: Mapping[str, Share] = {}
    separability_noise: Share | None = None
    separability_released: Share | None = None
    schema: int = RESULT_SCHEMA

    def line(self) -> str:
        """Return the record as one line of JSON: sorted keys, no NaN."""
        unknown = tuple(name for name in SEPARABILITY_FIELDS if getattr(self, name) is None)
        left_out = unknown if self.chosen else (*CHOICE_FIELDS, *unknown)
        table = {name: value for name, value in structs.asdict(self).items() if name not in left_out}
        return json.dumps(table, sort_keys=True, allow_nan=False, ensure_ascii=False, default=_plain)

    def same_numbers(self, other: Result) -> bool:
        """Return whether two records agree in everything that an equal run reproduces."""
        return bool(_reproduced(self) == _reproduced(other))

    def equals_stored(self, line: bytes) -> bool:
        """Return whether a stored line of the same key has the same numbers; labels are not compared.

        The answer may be false although they are equal, as for records of another version.
        """
        try:
            other = _RESULT.decode(line)
        except msgspec.DecodeError:  # of another version
            return False
        return not self.chosen and _numbers(self) == _numbers(other)


_reproduced = attrgetter(
    *(name for name in Result.__struct_fields__ if name not in {*VARYING_FIELDS, *SEPARABILITY_FIELDS})
)
_numbers = attrgetter(
    *(
        name
        for name in Result.__struct_fields__
        if name not in {*VARYING_FIELDS, *LABEL_FIELDS, *KEY_FIELDS, *CHOICE_FIELDS, *SEPARABILITY_FIELDS}
    )
)


class _Versioned(Struct):
    schema: Any = None


class _MadeWith(Struct):
    """The part of `made_with` that every record has."""

    device: str
    plugins: dict[str, str] = {}


_Facts: Any = dict[str, str | int | bool | dict[str, str] | None]
_VERSIONED, _RESULT = msgspec.json.Decoder(_Versioned), msgspec.json.Decoder(Result)


def parse_result(text: str | bytes, source: str = "result") -> Result:
    """Return a record; raises `UserError` that names the source, the field and what is wrong.

    A record has the types, shapes and ranges that ranks, tables and figures rely on. Whether a run can have written
    it is checked in `submission`.
    """
    try:
        schema = _VERSIONED.decode(text).schema
        if schema != RESULT_SCHEMA:
            raise UserError(f"{source} has schema {repr(schema)[:40]}; this version reads {RESULT_SCHEMA}")
        result = _RESULT.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise shape_error(error, source) from None
    for shape in (_MadeWith, _Facts):
        check_shape(result.made_with, shape, f"{source}, made_with")
    if result.parameters.keys() != PARAMETER_FIELDS:
        raise UserError(f"{source}: parameters must be of {', '.join(sorted(PARAMETER_FIELDS))}")
    members = _count_members(result.parameters["breaker"], f"{source}, parameters, breaker")
    if result.breaker and _count_members(result.breaker, f"{source}, breaker") != members:
        raise UserError(f"{source}: breaker {result.breaker[:60]!r} is no name of a chain of {members}")
    steps = [point.step for point in result.curve]
    if steps != sorted({*steps}):
        raise UserError(f"{source}: the steps of the curve must ascend, not {str(steps)[:60]}")
    if result.chosen or result.trials:
        _check_choice(result.chosen, result.trials, source)
    return result


@lru_cache(maxsize=1024)
def _count_labels(text: str) -> int:
    return len([parse_label(member) for member in split_outside_parentheses(text, "+")])


def _count_members(text: str, source: str) -> int:
    """Return the number of members of a chain, which figures need; raises `UserError`."""
    try:
        return _count_labels(text)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def _check_choice(chosen: str, trials: Mapping[str, float], source: str) -> None:
    """Raise `UserError` unless the chosen chain has the highest accuracy of those that were tried."""
    if chosen not in trials or trials[chosen] < max(trials.values()):
        raise UserError(
            f"{source}: chosen is {chosen!r}, which does not have the highest accuracy of {str(trials)[:60]}"
        )
