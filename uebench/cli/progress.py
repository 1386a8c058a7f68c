"""Shows a run as it goes: live bars on a terminal, plain lines with the time in a log."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from uebench.planning.plan import Cell, Job
from uebench.storage.result import Result

SILENCE = 30.0
"""Seconds between two lines about the same job in a log."""


class Lines:
    """A listener that prints a plain line for each event, and now and then one about a running job."""

    def __init__(self, console: Console, names: Mapping[str, str], cells: int) -> None:
        self.console, self.names, self.cells, self.done = console, names, cells, 0
        self._began: dict[str, tuple[float, int]] = {}
        self._told: dict[str, float] = {}

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def _print(self, line: str) -> None:
        self.console.print(f"{time.strftime('%H:%M:%S')} {line}", markup=False, highlight=False, soft_wrap=True)

    def started(self, job: Job) -> None:
        """Tell that a job began."""
        self._told[job.key] = time.monotonic()
        self._print(f"start  {self.names[job.key]}")

    def stepped(self, job: Job, step: int, count: int, loss: float | None) -> None:
        """Tell how far a job is, with its loss, its rate so far, and the time left at it."""
        now = time.monotonic()
        began, first = self._began.setdefault(job.key, (now, step))
        if now - self._told[job.key] > SILENCE and step > first:
            self._told[job.key] = now
            rate = (step - first) / (now - began)
            left = timedelta(seconds=round((count - step) / rate))
            self._print(
                f"step   {self.names[job.key]}: {step} of {count}{_loss(loss)}, {rate:.3g} steps/s, {left} left"
            )

    def ended(self, job: Job, outcome: Result | bool) -> None:
        """Tell that a job is finished, unless it was so before this run."""
        if isinstance(job, Cell):
            self.done += 1
        if job.key in self._told:
            count = f"  [{self.done} of {self.cells} cells]" if self.cells else ""
            self._print(f"done   {self.names[job.key]}{_accuracy(outcome)}{count}")

    def failed(self, job: Job, reason: str, trace: str) -> None:
        """Tell that a job failed."""
        self._print(f"FAILED {self.names[job.key]}: {reason}")
        if trace:
            self.console.print(trace, markup=False, highlight=False, soft_wrap=True)

    def said(self, line: str) -> None:
        """Tell something worth knowing."""
        self._print(f"note   {line}")


class _Rate(ProgressColumn):
    """The speed of a task."""

    def render(self, task: Task) -> Text:
        """Return the steps a second, once they are known."""
        return Text(f"{task.speed:.3g}/s" if task.speed else "", style="progress.data.speed")


class Bars(Lines):
    """A listener that shows a bar for all cells and one for each running job, with the time left."""

    def __init__(self, console: Console, names: Mapping[str, str], cells: int) -> None:
        super().__init__(console, names, cells)
        columns = (
            TextColumn("{task.description}{task.fields[loss]}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=console)
        self._all = self.progress.add_task("cells", total=cells, loss="", visible=cells > 0)
        self._bars: dict[str, TaskID] = {}

    def __enter__(self) -> Bars:
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def _print(self, line: str) -> None:
        self.progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def started(self, job: Job) -> None:
        """Add a bar."""
        self._bars[job.key] = self.progress.add_task(escape(self.names[job.key]), total=None, loss="")

    def stepped(self, job: Job, step: int, count: int, loss: float | None) -> None:
        """Move a bar."""
        self.progress.update(self._bars[job.key], completed=step, total=count, loss=_loss(loss))

    def ended(self, job: Job, outcome: Result | bool) -> None:
        """Replace a bar by a line."""
        if isinstance(job, Cell):
            self.progress.advance(self._all)
        if job.key in self._bars:
            self.progress.remove_task(self._bars.pop(job.key))
            self._print(f"{self.names[job.key]}{_accuracy(outcome)}")

    def failed(self, job: Job, reason: str, trace: str) -> None:
        """Replace a bar by what went wrong."""
        if job.key in self._bars:
            self.progress.remove_task(self._bars.pop(job.key))
        super().failed(job, reason, trace)


def _loss(loss: float | None) -> str:
    return "" if loss is None else f", loss {loss:.3f}"


def _accuracy(outcome: Result | bool) -> str:
    return f": {100 * outcome.test_accuracy:.1f} %" if isinstance(outcome, Result) else ""


def make_listener(console: Console, names: Mapping[str, str], cells: int) -> Lines:
    """Return the listener that suits where the output goes."""
    return (Bars if console.is_terminal else Lines)(console, names, cells)
