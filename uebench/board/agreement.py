"""Decides whether two runs of a cell agree, by the spread between runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import mean, variance

from uebench.components.errors import UserError

MOST_DEVIATIONS = 3.0
"""Two runs agree if their accuracies differ by at most this number of standard deviations."""
TEST_IMAGES = 1_000_000
"""Upper bound of the number of test images."""


@dataclass(frozen=True)
class Agreement:
    """Two accuracies of one cell; `spread` is the standard deviation of the difference between two of its runs."""

    cell: str
    claimed: float
    found: float
    spread: float

    @property
    def deviations(self) -> float:
        """The difference of the accuracies in standard deviations."""
        return abs(self.claimed - self.found) / self.spread

    @property
    def holds(self) -> bool:
        """Whether the accuracies agree."""
        return self.deviations <= MOST_DEVIATIONS

    def __str__(self) -> str:
        accuracies = f"{self.claimed:.4f} claimed, {self.found:.4f} measured"
        return (
            f"{self.cell}: {accuracies}, {self.deviations:.1f} standard deviations apart (at most {MOST_DEVIATIONS:g})"
        )


def run_deviation(accuracies: Sequence[float], images: int) -> float:
    """Return the standard deviation of the difference between two runs of a cell, above 0.

    `accuracies` are those of the cell over its seeds, each on `images` test images. The variance of one run is the
    sample variance over seeds (0 for one seed) plus the binomial variance p (1 - p) / images, because rounding on
    another device changes some predictions. p is the mean accuracy by Laplace's rule of succession, so the variance is
    above 0 even if every image is classified correctly. The difference of two runs has twice the variance of one.
    """
    seed_variance = variance(accuracies) if len(accuracies) > 1 else 0.0
    share = (mean(accuracies) * images + 1) / (images + 2)
    return math.sqrt(2 * (seed_variance + share * (1 - share) / images))


def count_test_images(accuracies: Iterable[float]) -> int:
    """Return the smallest number of test images for which every accuracy is a whole number of images.

    The size of the test set is a multiple of it. Raises `UserError` if no number of images fits.
    """
    count = 1
    for accuracy in accuracies:
        fraction = Fraction(accuracy).limit_denominator(TEST_IMAGES)
        count = math.lcm(count, fraction.denominator)
        if not is_whole_count(accuracy, count) or count > TEST_IMAGES:
            raise UserError(
                f"test accuracy {accuracy!r} is no whole number of images in a test set that fits the others"
            )
    return count


def is_whole_count(accuracy: float, images: int) -> bool:
    """Return whether an accuracy is exactly a whole number of images."""
    return round(accuracy * images) / images == accuracy
