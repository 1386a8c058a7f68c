"""The figures of the site: curves over a breaker's parameter, axes, and positions of labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from uebench.board.curves import parameter_curves
from uebench.components.spec import format_number
from uebench.storage.result import Result

SHORTEST_SECONDS = 0.01
"""Costs below this number of seconds are drawn at the edge."""


class IntervalPoint(NamedTuple):
    """A mean over seeds at `x`, with its 95 % interval, None for a single seed; all but `x` in [0, 1]."""

    x: float
    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Sweep:
    """Test accuracy against a parameter of a breaker; `curves` go by the canonical text of a noise."""

    breaker: str
    parameter: str
    target: str
    curves: Mapping[str, Sequence[IntervalPoint]]


def breaker_sweeps(records: Sequence[Result]) -> list[Sweep]:
    """Return the curves over a breaker's parameter in one comparable group of results, for each target."""
    sweeps = []
    for target in sorted({result.target for result in records}):
        for figure in parameter_curves([result for result in records if result.target == target]):
            curves: dict[str, list[IntervalPoint]] = {}
            for row in figure.points.to_dict("records"):
                bounds = (None, None) if row["seeds"] == 1 else (row["low"], row["high"])
                curves.setdefault(row["parameters"], []).append(IntervalPoint(row["x"], row["mean"], *bounds))
            several = {noise: points for noise, points in curves.items() if len(points) > 1}
            if several:
                sweeps.append(Sweep(figure.breaker, figure.parameter, target, several))
    return sweeps


@dataclass(frozen=True)
class Axis:
    """Maps values onto pixels, evenly or by their logarithms; what lies outside is drawn on the edge."""

    low: float
    high: float
    start: float
    stop: float
    marks: Sequence[tuple[float, str]]
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the pixel of a value."""
        inside = min(max(value, self.low), self.high)
        low, high, place = (math.log10(value) if self.log else value for value in (self.low, self.high, inside))
        return round(self.start + (place - low) / ((high - low) or 1) * (self.stop - self.start), 1)

    @classmethod
    def percent(cls, values: Iterable[float], step: int, start: float, stop: float) -> Axis:
        """Return an axis of shares, marked at every so many percent, that has zero and the values on it."""
        known = [0.0, *values]
        low, high = math.floor(100 * min(known) / step), max(1, math.ceil(100 * max(known) / step))
        marks = [(place * step / 100, str(place * step)) for place in range(low, high + 1)]
        return cls(low * step / 100, high * step / 100, start, stop, marks)

    @classmethod
    def decades(cls, values: Iterable[float], start: float, stop: float) -> Axis:
        """Return a logarithmic axis marked at powers of ten, none of them below `SHORTEST_SECONDS`."""
        known = [max(value, SHORTEST_SECONDS) for value in values]
        low = math.floor(math.log10(min(known)))
        high = max(low + 1, math.ceil(math.log10(max(known))))
        marks = [(10.0**power, f"{10.0**power:g}") for power in range(low, high + 1)]
        return cls(10.0**low, 10.0**high, start, stop, marks, log=True)

    @classmethod
    def at(cls, values: Iterable[float], gap: float, start: float, stop: float) -> Axis:
        """Return an axis marked at its ends and, of the values between, at those that leave gaps of so many pixels."""
        known = sorted(set(values))
        bare = cls(known[0], known[-1], start, stop, [])
        kept = known[:1]
        for value in known[1:]:
            if value == known[-1] or min(bare(value) - bare(kept[-1]), stop - bare(value)) >= gap:
                kept.append(value)
        return replace(bare, marks=[(value, format_number(value)) for value in kept])


class Label(NamedTuple):
    """Where the text beside a point stands, in pixels: its start or its end, which `anchor` says, and its baseline."""

    x: float
    y: float
    anchor: str


def place_labels(
    points: Sequence[tuple[float, float, str]], width: float, sign: float = 7, line: float = 14
) -> list[Label]:
    """Return the position of the label of each point (across, down, text), in pixels.

    A label is to the right of its point, at the figure's edge to the left, and below any label that it would overlap.
    `sign` and `line` are the width and the height of a character, in pixels; the figure is `width` pixels wide.
    """
    taken = [(down + 4, across - 6, across + 6) for across, down, _ in points]
    labels = []
    for across, down, text in points:
        size = sign * len(text)
        anchor = "start" if across + 9 + size <= width or across - 9 - size < 0 else "end"
        left = across + 9 if anchor == "start" else across - 9 - size
        base = down + 4
        for baseline, start, stop in sorted(taken):
            if left < stop and start < left + size and abs(base - baseline) < line:
                base = baseline + line
        taken.append((base, left, left + size))
        labels.append(Label(round(left if anchor == "start" else across - 9, 1), round(base, 1), anchor))
    return labels
