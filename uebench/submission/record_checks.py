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
"""Most characters of a label."""
STEP_TOLERANCE = 1e-3
"""Largest distance of a measured L-inf norm from a whole number of steps of 1/255, in steps (float rounding)."""
ROUNDING_TOLERANCE = 0.01
"""Effect of rounding on a PSNR, in dB, or on an SSIM."""


class _MadeWith(msgspec.Struct):
    device: str
    uebench: str
    torch: str
    plugins: dict[str, str]


def check_record(result: Result, recipe: Recipe, now: datetime) -> None:
    """Raise `UserError` for a record that no run with this recipe wrote before `now`, which has a time zone."""
    source = f"result {result.key[:40]!r}"
    _check_form(result, source)
    if result.key != content_key(cell_identity(result.parameters, result.protected, result.kind, result.seed)):
        raise UserError(f"{source}: the key does not follow from the parameters")
    _check_curve(result, recipe, source)
    _check_noise(result, source)
    _check_time(result, now, source)


def _check_form(result: Result, source: str) -> None:
    check_shape(result.made_with, _MadeWith, f"{source}, made_with")
    for text in (result.dataset, result.noise, result.breaker, result.target, result.recipe):
        if not PLAIN_TEXT.fullmatch(text) or len(text) > LABEL_LENGTH:
            raise UserError(
                f"{source}: {text[:60]!r} is not a label of at most {LABEL_LENGTH} letters, "
                "digits and . _ : = , ( ) / + @ -"
            )
    for text in result.trials:
        if not PLAIN_TEXT.fullmatch(text) or len(text) > LABEL_LENGTH:
            raise UserError(f"{source}: {text[:60]!r} is not the label of a trial")
    for flag in result.flags:
        if not FLAG_PATTERN.fullmatch(flag):
            raise UserError(f"{source}: {flag!r} is not a flag")
    if (result.protected, result.kind) != (1, "mixed"):
        raise UserError(
            f"{source} is of a share of {result.protected:g} ({result.kind!r}), not of a wholly protected set"
        )


def _check_curve(result: Result, recipe: Recipe, source: str) -> None:
    """Raise `UserError` where the curve does not fit the recipe, or does not end in the record's accuracies."""
    points = min(recipe.evaluations, recipe.steps)
    steps = [recipe.steps * (number + 1) // points for number in range(points)]
    curve_steps = [point.step for point in result.curve]
    if curve_steps != steps:
        raise UserError(f"{source}: the curve is of the steps {str(curve_steps)[:60]}, not of {str(steps)[:60]}")
    last = result.curve[-1]
    if (last.test_accuracy, last.train_accuracy) != (result.test_accuracy, result.train_accuracy):
        raise UserError(
            f"{source}: the curve ends at {last.test_accuracy!r}, test_accuracy is {result.test_accuracy!r}"
        )
    if result.best_test_accuracy != max(point.test_accuracy for point in result.curve):
        raise UserError(f"{source}: best_test_accuracy {result.best_test_accuracy!r} is not the highest of the curve")


def _check_noise(result: Result, source: str) -> None:
    """Raise `UserError` where measurements of the noise contradict each other, the 8 bits, or the declared budget."""
    steps = result.noise_linf * 255
    if abs(steps - round(steps)) > STEP_TOLERANCE:
        raise UserError(f"{source}: noise_linf {result.noise_linf!r} is not a whole number of steps of 1/255")
    changed = result.noise_linf > 0
    if (result.psnr is not None, result.noise_l2 > 0) != (
        changed,
        changed,
    ) or not -1 <= result.ssim <= 1 + ROUNDING_TOLERANCE:
        raise UserError(f"{source}: noise_linf, noise_l2, psnr and ssim contradict each other")
    if changed and result.psnr is not None and result.psnr < -20 * math.log10(result.noise_linf) - ROUNDING_TOLERANCE:
        raise UserError(f"{source}: a PSNR of {result.psnr:g} dB is below what noise_linf {result.noise_linf:g} allows")
    if result.noise_norm not in ("linf", "l2", "l0", "none"):
        raise UserError(f"{source}: there is no norm {result.noise_norm!r}")
    clean = result.parameters["noise"] == canonical_text(registry().build("noise", "none"))
    radius = "0" if clean else parse_canonical("noise", result.parameters["noise"])[2].get("radius", "")
    if result.noise_norm == "linf":
        bound = convert_value("noise", "radius", float, radius[:30])
        if round(steps) > bound * 255 + STEP_TOLERANCE:
            raise UserError(f"{source}: noise_linf {round(steps)}/255 is over the radius {format_number(bound)}")


def _check_time(result: Result, now: datetime, source: str) -> None:
    try:
        finished = datetime.fromisoformat(result.finished)
    except ValueError:
        raise UserError(f"{source}: finished must be a date and time, not {result.finished[:40]!r}") from None
    if finished.tzinfo is None or finished > now:
        reason = "has no time zone" if finished.tzinfo is None else "is in the future"
        raise UserError(f"{source}: finished {result.finished!r} {reason}")
