"""Progress and checkpoints of a long job: counts its steps, seeds each of them, and stores its state for a resume."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping

import torch

from uebench.compute.seeds import derive_seed, seed_generators
from uebench.jobs.tensor_files import pack_tensors, unpack_tensors
from uebench.storage.job_log import log_event
from uebench.storage.store import Store

LOG_LINES = 20
"""Lines about steps in the log of a job."""
ReportStep = Callable[[int, int, float | None], None]
"""Takes the number of finished steps, the number of all steps, and the last reported loss."""


class StoredProgress:
    """The progress of the job `key`, with a checkpoint in the store at most every `every` seconds.

    All random numbers of a step follow from `seed` and the step, so a resumed job draws the same numbers. A checkpoint
    that was written by other code than `code`, a hash, is not used.
    """

    def __init__(self, store: Store, key: str, seed: int, report: ReportStep, every: float, code: str = "") -> None:
        self.store, self.key, self.seed, self.report, self.every = store, key, seed, report, every
        self._code = torch.frombuffer(bytearray(code.encode() or b"-"), dtype=torch.uint8)
        content = store.kept(key)
        state = unpack_tensors(content) if content else {}
        if state and not torch.equal(state.pop("progress.code", torch.empty(0)), self._code):
            store.report(f"job {key[:8]} has a checkpoint of other code than there is now; it starts over")
            state = {}
        self._next = int(state.pop("progress.next", torch.tensor(0)))
        self._before = float(state.pop("progress.seconds", torch.tensor(0.0)))
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
        """Wall time of the job in seconds, with that of interrupted runs up to their checkpoint."""
        return self._before + time.monotonic() - self._began

    def steps(self, count: int) -> Iterator[int]:
        """Yield the remaining steps of 0 .. count-1, each with all random generators seeded."""
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
        finite = loss if loss is None or math.isfinite(loss) else None
        log_event(self.store, self.key, "step", step=step, of=count, loss=finite)

    def _report(self, step: int, count: int) -> None:
        if time.monotonic() - self._reported > self.period or step == count:
            self._reported = time.monotonic()
            self.report(step, count, None if self._loss is None else float(self._loss))

    def tell(self, loss: torch.Tensor) -> None:
        """Keep a loss for the next report; it is read only then, so that no step waits for the device."""
        self._loss = loss

    def keep(self, *more: Callable[[], Mapping[str, torch.Tensor]], **state: torch.Tensor) -> None:
        """Write a checkpoint if the last one is old enough; call at the end of a step.

        The functions in `more` return further state; they are called only when a checkpoint is written.
        """
        if time.monotonic() - self._saved < self.every:
            return
        own = {
            "progress.code": self._code,
            "progress.next": torch.tensor(self._next),
            "progress.seconds": torch.tensor(self.seconds, dtype=torch.float64),
        }
        for gather in more:
            state |= gather()
        self.store.keep(self.key, pack_tensors({**state, **own}))
        self._saved = time.monotonic()

    def kept(self) -> Mapping[str, torch.Tensor]:
        """Return the state in the checkpoint of an interrupted run, or an empty mapping."""
        return self._state
