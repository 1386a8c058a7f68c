"""Estimates the time left of a run, from the work of its unfinished jobs and the speed of this run so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import timedelta


class RemainingTime:
    """The time left of a run.

    `work` has the work of each job that was unfinished when the run started, by key, in any one unit. The speed is the
    work done since the first report of a job over the time since then, on all workers together. What an earlier run
    did, whole jobs or steps before a checkpoint, counts neither as work left nor as speed.
    """

    def __init__(self, work: Mapping[str, float], clock: Callable[[], float] = time.monotonic) -> None:
        self._work, self._clock = dict(work), clock
        self._left = sum(self._work.values())
        self._done = 0.0
        self._began: float | None = None
        self._running: dict[str, float | None] = {}
        """The share of each running job that is done; None before its first report."""

    def start(self, key: str) -> None:
        """Note that a job started."""
        self._running[key] = None

    def progress(self, key: str, share: float) -> None:
        """Note the share of a job that is done; what its first report says was done before this run."""
        if self._began is None:
            self._began = self._clock()
        before = self._running.get(key)
        gained = self._work.get(key, 0.0) * (share - (before or 0.0))
        self._left -= gained
        if before is not None:
            self._done += gained
        self._running[key] = share

    def end(self, key: str) -> None:
        """Note that a job finished or failed, in this run or before it."""
        started, share = key in self._running, self._running.pop(key, None)
        gained = self._work.pop(key, 0.0) * (1 - (share or 0.0))
        self._left -= gained
        if started and self._began is not None:
            self._done += gained

    def seconds(self) -> float | None:
        """Return the seconds left; None while this run has done nothing."""
        if self._began is None or self._done <= 0:
            return None
        return max(self._left, 0.0) * (self._clock() - self._began) / self._done

    def text(self) -> str:
        """Return the time left as hours, minutes and seconds; empty while it is unknown."""
        seconds = self.seconds()
        return "" if seconds is None else str(timedelta(seconds=round(seconds)))
