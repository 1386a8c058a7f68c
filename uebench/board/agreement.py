"""Decides whether two runs of a cell agree, by the spread between runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import mean, variance

from uebench.components.errors import UserError

MOST_DEVIATIONS = 3.0
"""Largest distance, in standard deviations, of two runs that agree."""
TEST_IMAGES = 1_000_000
"""More images than any test set has."""


@dataclass(frozen=True)
class Agreement:
    """Two accuracies of one cell, and the standard deviation of the difference between two runs of it."""

    cell: str
    claimed: float
    found: float
    spread: float

    @property
    def deviations(self) -> float:
        """Their distance in standard deviations."""
        return abs(self.claimed - self.found) / self.spread

    @property
    def holds(self) -> bool:
        """Whether they agree."""
        return self.deviations <= MOST_DEVIATIONS

    def __str__(self) -> str:
        both = f"{self.claimed:.4f} claimed, {self.found:.4f} measured"
        return f"{self.cell}: {both}, {self.deviations:.1f} standard deviations apart (at most {MOST_DEVIATIONS:g})"


def run_deviation(accuracies: Sequence[float], images: int) -> float:
    """Return the standard deviation of the difference between two runs of a cell, above 0.

    `accuracies` are those of the cell over its seeds, each on `images` test images. The variance of one run is the
    sample variance over seeds (0 for one seed), plus p (1 - p) / images for what the rounding of another device
    moves across a decision boundary: the binomial variance of an accuracy p, their mean, by Laplace's rule of
    succession, so that it is above 0 also where every image is right. Two runs have twice the variance of one.
    """
    seeds = variance(accuracies) if len(accuracies) > 1 else 0.0
    share = (mean(accuracies) * images + 1) / (images + 2)
    return math.sqrt(2 * (seeds + share * (1 - share) / images))


def count_test_images(accuracies: Iterable[float]) -> int:
    """Return the smallest number of test images for which all accuracies are whole counts; raises `UserError`.

    It divides the number of images in the test set.
    """
    count = 1
    for accuracy in accuracies:
        fraction = Fraction(accuracy).limit_denominator(TEST_IMAGES)
        count = math.lcm(count, fraction.denominator)
        if not is_whole_count(accuracy, count) or count > TEST_IMAGES:
            raise UserError(f"test accuracy {accuracy!r} counts no whole images of a test set that fits the others")
    return count


def is_whole_count(accuracy: float, images: int) -> bool:
    """Return whether an accuracy is a whole number of images, to the last bit."""
    return round(accuracy * images) / images == accuracy
