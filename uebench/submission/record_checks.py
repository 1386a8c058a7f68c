"""What can be said of one record by itself: its key follows from its parameters, and nothing in it is impossible."""

from __future__ import annotations

import math
import re
from datetime import datetime

import msgspec

from uebench.components.errors import UserError
from uebench.components.recipe import Recipe
from uebench.components.registry import registry
from uebench.components.spec import canonical_text, convert_value, format_number
from uebench.planning.plan import cell_identity, content_key
from uebench.storage.result import Result
from uebench.storage.strict_json import check_shape
from uebench.submission.restore_components import PLAIN_TEXT, parse_canonical

FLAG_PATTERN = re.compile(r"[a-z0-9-]{1,60}")
LABEL_LENGTH = 300
"""Characters of a name."""
STEP_TOLERANCE = 1e-3
"""What a measured L-inf norm may be off a whole number of steps of 1/255, in steps: it is a difference of floats."""
ROUNDING_TOLERANCE = 0.01
"""What rounding may do to a PSNR, in dB, or to an SSIM."""


class _MadeWith(msgspec.Struct):
    device: str
    uebench: str
    torch: str
    plugins: dict[str, str]


def check_record(one: Result, recipe: Recipe, now: datetime) -> None:
    """Raise `UserError` for a record that no run with this recipe wrote before now; `now` has a time zone."""
    place = f"result {one.key[:40]!r}"
    _check_form(one, place)
    if one.key != content_key(cell_identity(one.parameters, one.protected, one.kind, one.seed)):
        raise UserError(f"{place}: the key does not follow from the parameters")
    _check_curve(one, recipe, place)
    _check_noise(one, place)
    _check_time(one, now, place)


def _check_form(one: Result, place: str) -> None:
    check_shape(one.made_with, _MadeWith, f"{place}, made_with")
    for text in (one.dataset, one.noise, one.breaker, one.target, one.recipe):
        if not PLAIN_TEXT.fullmatch(text) or len(text) > LABEL_LENGTH:
            raise UserError(
                f"{place}: {text[:60]!r} is no name of {LABEL_LENGTH} letters, digits and . _ : = , ( ) / + @ -"
            )
    for text in one.trials:
        if not PLAIN_TEXT.fullmatch(text) or len(text) > LABEL_LENGTH:
            raise UserError(f"{place}: {text[:60]!r} was tried and is no name")
    for flag in one.flags:
        if not FLAG_PATTERN.fullmatch(flag):
            raise UserError(f"{place}: {flag!r} is no flag")
    if (one.protected, one.kind) != (1, "mixed"):
        raise UserError(f"{place} is of a share of {one.protected:g} ({one.kind!r}), not of a wholly protected set")


def _check_curve(one: Result, recipe: Recipe, place: str) -> None:
    """Raise `UserError` where the curve is not one of this recipe, or does not end in the record's accuracies."""
    points = min(recipe.evaluations, recipe.steps)
    steps = [recipe.steps * (number + 1) // points for number in range(points)]
    found = [point.step for point in one.curve]
    if found != steps:
        raise UserError(f"{place}: the curve is of the steps {str(found)[:60]}, not of {str(steps)[:60]}")
    last = one.curve[-1]
    if (last.test_accuracy, last.train_accuracy) != (one.test_accuracy, one.train_accuracy):
        raise UserError(f"{place}: the curve ends at {last.test_accuracy!r}, test_accuracy is {one.test_accuracy!r}")
    if one.best_test_accuracy != max(point.test_accuracy for point in one.curve):
        raise UserError(f"{place}: best_test_accuracy {one.best_test_accuracy!r} is not the highest of the curve")


def _check_noise(one: Result, place: str) -> None:
    """Raise `UserError` where the measures of the noise contradict each other, the 8 bits, or the declared budget."""
    steps = one.noise_linf * 255
    if abs(steps - round(steps)) > STEP_TOLERANCE:
        raise UserError(f"{place}: noise_linf {one.noise_linf!r} is no whole number of steps of 1/255")
    changed = one.noise_linf > 0
    if (one.psnr is not None, one.noise_l2 > 0) != (changed, changed) or not -1 <= one.ssim <= 1 + ROUNDING_TOLERANCE:
        raise UserError(f"{place}: noise_linf, noise_l2, psnr and ssim do not go together")
    if changed and one.psnr is not None and one.psnr < -20 * math.log10(one.noise_linf) - ROUNDING_TOLERANCE:
        raise UserError(f"{place}: a PSNR of {one.psnr:g} dB is below what noise_linf {one.noise_linf:g} allows")
    if one.noise_norm not in ("linf", "l2", "l0", "none"):
        raise UserError(f"{place}: there is no norm {one.noise_norm!r}")
    clean = one.parameters["noise"] == canonical_text(registry().build("noise", "none"))
    radius = "0" if clean else parse_canonical("noise", one.parameters["noise"])[2].get("radius", "")
    if one.noise_norm == "linf":
        bound = convert_value("noise", "radius", float, radius[:30])
        if round(steps) > bound * 255 + STEP_TOLERANCE:
            raise UserError(f"{place}: noise_linf {round(steps)}/255 is over the radius {format_number(bound)}")


def _check_time(one: Result, now: datetime, place: str) -> None:
    try:
        finished = datetime.fromisoformat(one.finished)
    except ValueError:
        raise UserError(f"{place}: finished must be a date and time, not {one.finished[:40]!r}") from None
    if finished.tzinfo is None or finished > now:
        reason = "has no time zone" if finished.tzinfo is None else "is in the future"
        raise UserError(f"{place}: finished {one.finished!r} {reason}")
