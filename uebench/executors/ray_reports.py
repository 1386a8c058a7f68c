"""Keeps the messages of jobs on other machines; a module of its own, so that its process loads nothing else."""

from __future__ import annotations

from typing import Any


class Reports:
    """An actor that keeps messages until the run asks for them."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, Any]] = []

    def add(self, key: str, message: Any) -> None:
        """Keep a message about the job with this key."""
        self.kept.append((key, message))

    def take(self) -> list[tuple[str, Any]]:
        """Return the messages and forget them."""
        kept, self.kept = self.kept, []
        return kept
