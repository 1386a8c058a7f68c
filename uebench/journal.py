"""Progress and resume of one long job: counts its steps, seeds each, and keeps its state now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from uebench.seeds import derive, sow
from uebench.store import Store

Report = Callable[[int, int], None]
"""Called with the number of finished steps and of all steps."""


class StoredJournal:
    """Keeps the state of the job `key` in a store, at most every `every` seconds.

    All random numbers of a step follow from `seed` and the step, so a resumed job draws what it would have drawn.
    """

    def __init__(self, store: Store, key: str, seed: int, report: Report, every: float) -> None:
        self.store, self.key, self.seed, self.report, self.every = store, key, seed, report, every
        state = store.kept(key)
        self._next = int(state.pop("journal.next", torch.tensor(0)))
        self._before = float(state.pop("journal.seconds", torch.tensor(0.0)))
        self._state = state
        self._began = self._saved = time.monotonic()

    @property
    def seconds(self) -> float:
        """Wall time spent on the job, with that of interrupted runs up to the state they kept."""
        return self._before + time.monotonic() - self._began

    def steps(self, count: int) -> Iterator[int]:
        """Yield the steps that are left of 0 .. count-1, each with all random generators seeded."""
        for step in range(self._next, count):
            self.report(step, count)
            self._next = step + 1
            sow(derive(self.seed, "step", step))
            yield step
        self.report(count, count)

    def keep(self, **state: Tensor) -> None:
        """Write the state if the last write is long enough ago; call at the end of a step."""
        if time.monotonic() - self._saved < self.every:
            return
        journal = {
            "journal.next": torch.tensor(self._next),
            "journal.seconds": torch.tensor(self.seconds, dtype=torch.float64),
        }
        self.store.keep(self.key, {**state, **journal})
        self._saved = time.monotonic()

    def kept(self) -> Mapping[str, Tensor]:
        """Return the state that an interrupted run kept, or an empty mapping."""
        return self._state
