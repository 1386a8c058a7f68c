"""What submit, verify, accept and withdraw return: plain values that a program reads and the command line prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from uebench.board.agreement import Agreement
from uebench.board.standings import SEEDS
from uebench.planning.suite import Suite
from uebench.storage.history import Badge
from uebench.submission.bundle import Bundle
from uebench.submission.distribution_hash import hash_distribution
from uebench.submission.entry import Entry


@dataclass(frozen=True)
class DistributionCheck:
    """A distribution that a bundle names, and whether the same files are installed here."""

    name: str
    version: str
    installed: Literal["the same files", "other files", "not installed"]


@dataclass(frozen=True)
class BundleSummary:
    """A bundle in short; noises, breaker and data set by label, `breaker` empty for the entry of a noise."""

    sha256: str
    suite: str
    dataset: str
    submitter: str
    noises: Sequence[str]
    breaker: str
    seeds: Sequence[int]
    results: int
    own_results: int
    logged_results: int
    distributions: Sequence[DistributionCheck]

    @property
    def provisional(self) -> bool:
        """Whether it has fewer seeds than a rank needs."""
        return len(self.seeds) < SEEDS


@dataclass(frozen=True)
class SubmissionReport:
    """The bundle that `uebench submit` wrote."""

    path: Path
    summary: BundleSummary


@dataclass(frozen=True)
class RerunReport:
    """Cells of a bundle that were run again here.

    `impossible` says why no cell could be run, `failures` has the reason by the name of a job, `same_images` tells by
    the name of a job whether the released images have the hash that the bundle states.
    """

    seed: int
    drawn: int
    impossible: str = ""
    failures: Mapping[str, str] | None = None
    same_images: Mapping[str, bool] | None = None
    agreements: Sequence[Agreement] = ()

    @property
    def agreed(self) -> bool:
        """Whether every drawn cell was run and agrees with the bundle."""
        complete = not self.impossible and len(self.agreements) == self.drawn
        return complete and all(agreement.holds for agreement in self.agreements)

    @property
    def history_fields(self) -> dict[str, Any]:
        """What the history of a board keeps of it."""
        largest = max((agreement.deviations for agreement in self.agreements), default=0.0)
        return {"cells": len(self.agreements), "seed": self.seed, "deviations": round(largest, 3)}


@dataclass(frozen=True)
class VerificationReport:
    """A valid bundle, the entry that it makes in a suite, and what checks and re-runs gave.

    `references` compares cells of the clean set with those on the board. `obstacle` says why the board would not take
    the bundle as it is.
    """

    bundle: Bundle
    suite: Suite
    entry: Entry
    summary: BundleSummary
    references: Sequence[Agreement] = ()
    rerun: RerunReport | None = None
    obstacle: str = ""

    @property
    def agreed(self) -> bool:
        """Whether every check that was asked for was possible and holds."""
        return self.rerun is None or self.rerun.agreed

    @property
    def badge(self) -> Badge:
        """The badge that the bundle would have on the board."""
        return "re-run" if self.rerun and self.rerun.agreed else "valid"


@dataclass(frozen=True)
class RowChange:
    """A row of a board before and after a decision: status, residual protection and worst breaker, or None."""

    noise: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any]


@dataclass(frozen=True)
class BoardUpdate:
    """What a decision of a maintainer changed, and the folder of the board that was rebuilt."""

    folder: Path
    changes: Sequence[RowChange]


def summarise_bundle(bundle: Bundle, entry: Entry) -> BundleSummary:
    """Return a bundle in short; looks up the distributions that are installed here."""
    manifest, own = bundle.manifest, [result for result in bundle.results if entry.own(result)]
    return BundleSummary(
        sha256=bundle.sha256,
        suite=manifest["suite"],
        dataset=own[0].dataset,
        submitter=manifest["submitter"]["name"],
        noises=sorted({result.noise for result in own}),
        breaker=own[0].breaker if entry.breaker else "",
        seeds=manifest["seeds"],
        results=len(bundle.results),
        own_results=len(own),
        logged_results=len({event["key"] for event in bundle.log} & set(manifest["keys"])),
        distributions=[_check_distribution(claimed) for claimed in manifest["distributions"]],
    )


def _check_distribution(claimed: Mapping[str, str]) -> DistributionCheck:
    installed = hash_distribution(claimed["name"])
    if installed is None:
        return DistributionCheck(claimed["name"], claimed["version"], "not installed")
    same = installed[1] == claimed["sha256"]
    return DistributionCheck(claimed["name"], claimed["version"], "the same files" if same else "other files")
