"""Keeps what jobs on other machines tell; by itself, as the process that holds it needs nothing else."""

from __future__ import annotations

from typing import Any


class Reports:
    """An actor that keeps what jobs tell until the run asks for it."""

    def __init__(self) -> None:
        self.kept: list[tuple[Any, ...]] = []

    def tell(self, *report: Any) -> None:
        """Keep a report: the job's key, its kind, and what it says."""
        self.kept.append(report)

    def take(self) -> list[tuple[Any, ...]]:
        """Return what was kept, and forget it."""
        kept, self.kept = self.kept, []
        return kept
