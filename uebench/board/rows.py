"""The rows of a board: the results of one noise, or of one breaker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal, NamedTuple

from uebench.components.interfaces import Threat

RowStatus = Literal["ranked", "provisional", "unranked", "withdrawn", "reference"]


class SeedMean(NamedTuple):
    """A mean over seeds, its standard deviation (None for a single seed), and the number of seeds."""

    mean: float
    deviation: float | None
    seeds: int


def mean_of_known(values: Sequence[float | None]) -> float | None:
    """Return the mean of the known values, None for none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def median_of_known(values: Sequence[float | None]) -> float | None:
    """Return the median of the known values, None for none."""
    known = [value for value in values if value is not None]
    return median(known) if known else None


COSTS = {
    "noise_l2": mean_of_known,
    "psnr": mean_of_known,
    "ssim": mean_of_known,
    "separability_noise": mean_of_known,
    "separability_released": mean_of_known,
    "noise_seconds": median_of_known,
    "train_seconds": median_of_known,
    "peak_bytes": mean_of_known,
}
"""Measurements of a noise, and how each is summarised over cells. One stalled run does not change a median time."""


@dataclass(frozen=True, kw_only=True)
class NoiseRow:
    """The results of one noise; accuracies and protection are in [0, 1], None is unknown.

    `rank_low` to `rank_high` is the set of ranks that the seeds allow. `accuracies` maps the name of a breaker to an
    accuracy, `residuals` to what is left against it alone; `targets` maps the name of a target to the highest accuracy
    under a required breaker. `parameters` is the canonical text of the noise; `lacks` names the missing required cells.
    On a board of two records, `record` says whose results the row has: `own`, `published` or `both`; otherwise it is
    empty.
    """

    noise: str
    parameters: str
    status: RowStatus
    seeds: int
    budget: str
    noise_linf: float
    rank: int | None = None
    rank_low: int | None = None
    rank_high: int | None = None
    residual_protection: float | None = None
    residual_low: float | None = None
    residual_high: float | None = None
    worst_breaker: str | None = None
    residual_best_known: float | None = None
    best_known_breaker: str | None = None
    best_known_since: str | None = None
    same_breaker_gap: float | None = None
    gap_low: float | None = None
    gap_high: float | None = None
    accuracies: Mapping[str, SeedMean] = field(default_factory=dict)
    residuals: Mapping[str, float] = field(default_factory=dict)
    targets: Mapping[str, SeedMean] = field(default_factory=dict)
    noise_l2: float | None = None
    psnr: float | None = None
    ssim: float | None = None
    separability_noise: float | None = None
    separability_released: float | None = None
    noise_seconds: float | None = None
    train_seconds: float | None = None
    peak_bytes: float | None = None
    device: str = ""
    flags: tuple[str, ...] = ()
    lacks: str = ""
    ruling: str = ""
    record: str = ""

    @property
    def is_reference(self) -> bool:
        """Whether this is the row of clean images."""
        return self.status == "reference"

    @property
    def has_rank(self) -> bool:
        """Whether the noise has every required cell and was not withdrawn."""
        return self.status in ("ranked", "provisional")


@dataclass(frozen=True, kw_only=True)
class BreakerRow:
    """The results of one breaker; accuracies are in [0, 1], None is unknown.

    `recovered` is the mean accuracy over all noises with a rank, `lowest` the lowest of these accuracies. `chosen` has
    the chains that a choosing breaker used, with counts. `threat` is its threat class, `year` that of its paper.
    """

    breaker: str
    parameters: str
    required: bool
    threat: Threat | None = None
    year: int | None = None
    rank: int | None = None
    recovered: float | None = None
    recovered_low: float | None = None
    recovered_high: float | None = None
    lowest: float | None = None
    clean_accuracy: float | None = None
    train_seconds: float | None = None
    chosen: str = ""
    flags: tuple[str, ...] = ()
    lacks: str = ""
