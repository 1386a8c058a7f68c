"""Progress and resume of one long job: counts its steps, seeds each, and keeps its state now and then."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping

import torch

from uebench.compute.seeds import derive_seed, seed_generators
from uebench.storage.job_log import log_event
from uebench.storage.store import Store

LOG_LINES = 20
"""Of a job's steps in its log."""
ReportStep = Callable[[int, int, float | None], None]
"""Called now and then with the number of finished steps, of all steps, and the loss told last."""


class StoredProgress:
    """Keeps the state of the job `key` in a store, at most every `every` seconds.

    All random numbers of a step follow from `seed` and the step, so a resumed job draws what it would have drawn. State
    that was kept by other code than `code` names is not taken up.
    """

    def __init__(self, store: Store, key: str, seed: int, report: ReportStep, every: float, code: str = "") -> None:
        self.store, self.key, self.seed, self.report, self.every = store, key, seed, report, every
        self._code = torch.frombuffer(bytearray(code.encode() or b"-"), dtype=torch.uint8)
        state = store.kept(key)
        if state and not torch.equal(state.pop("journal.code", torch.empty(0)), self._code):
            store.say(f"job {key[:8]} was half done by other code than there is now; it starts over")
            state = {}
        self._next = int(state.pop("journal.next", torch.tensor(0)))
        self._before = float(state.pop("journal.seconds", torch.tensor(0.0)))
        self._state = state
        self._began = self._saved = time.monotonic()
        self.period = 0.2
        """Seconds between two reports."""
        self._reported = -math.inf
        self._loss: torch.Tensor | None = None
        if self._next:
            log_event(store, key, "resumed", step=self._next)

    @property
    def seconds(self) -> float:
        """Wall time spent on the job, with that of interrupted runs up to the state they kept."""
        return self._before + time.monotonic() - self._began

    def steps(self, count: int) -> Iterator[int]:
        """Yield the steps that are left of 0 .. count-1, each with all random generators seeded."""
        for step in range(self._next, count):
            self._report(step, count)
            if step and step * LOG_LINES // count > (step - 1) * LOG_LINES // count:
                self._note(step, count)
            self._next = step + 1
            seed_generators(derive_seed(self.seed, "step", step))
            yield step
        self._report(count, count)
        self._note(count, count)

    def _note(self, step: int, count: int) -> None:
        loss = None if self._loss is None else float(self._loss)
        told = loss if loss is None or math.isfinite(loss) else None
        log_event(self.store, self.key, "step", step=step, of=count, loss=told)

    def _report(self, step: int, count: int) -> None:
        if time.monotonic() - self._reported > self.period or step == count:
            self._reported = time.monotonic()
            self.report(step, count, None if self._loss is None else float(self._loss))

    def tell(self, loss: torch.Tensor) -> None:
        """Note a loss for the next report; it is read only then, so that a device need not be waited for."""
        self._loss = loss

    def keep(self, *more: Callable[[], Mapping[str, torch.Tensor]], **state: torch.Tensor) -> None:
        """Write the state if the last write is long enough ago; call at the end of a step.

        Functions that gather more of it are called only then.
        """
        if time.monotonic() - self._saved < self.every:
            return
        journal = {
            "journal.code": self._code,
            "journal.next": torch.tensor(self._next),
            "journal.seconds": torch.tensor(self.seconds, dtype=torch.float64),
        }
        for gather in more:
            state |= gather()
        self.store.keep(self.key, {**state, **journal})
        self._saved = time.monotonic()

    def kept(self) -> Mapping[str, torch.Tensor]:
        """Return the state that an interrupted run kept, or an empty mapping."""
        return self._state
