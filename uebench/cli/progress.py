"""Shows the progress of a run: bars on a terminal, plain lines with the time in a log."""

from __future__ import annotations

import time
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
from rich.table import Column
from rich.text import Text

from uebench.cli.remaining_time import RemainingTime
from uebench.executors.messages import Failed, RunOutline, StepReport
from uebench.planning.plan import Job
from uebench.storage.result import Result

SILENCE = 30.0
"""Seconds between two lines about one job in a log."""


class Lines:
    """A listener that prints a line for each event, and for a running job a line every `silence` seconds."""

    def __init__(self, console: Console, outline: RunOutline, silence: float = SILENCE) -> None:
        self.console, self.names, self.cells = console, outline.names, outline.cells
        self.done, self.silence = 0, silence
        self.remaining = RemainingTime(outline.work)
        self._first_steps: dict[str, tuple[float, int]] = {}
        self._last_lines: dict[str, float] = {}

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def _print(self, line: str) -> None:
        self.console.print(f"{time.strftime('%H:%M:%S')} {line}", markup=False, highlight=False, soft_wrap=True)

    def started(self, job: Job) -> None:
        """Print that a job began."""
        self.remaining.start(job.key)
        self._last_lines[job.key] = time.monotonic()
        self._print(f"start  {self.names[job.key]}")

    def progressed(self, job: Job, progress: StepReport) -> None:
        """Print how far a job is, with its loss, its rate so far, and the remaining time at this rate."""
        self.remaining.progress(job.key, progress.step / max(progress.count, 1))
        step, count, now = progress.step, progress.count, time.monotonic()
        began, first = self._first_steps.setdefault(job.key, (now, step))
        if now - self._last_lines[job.key] > self.silence and step > first:
            self._last_lines[job.key] = now
            rate = (step - first) / (now - began)
            left = timedelta(seconds=round((count - step) / rate))
            done = f"{step} of {count}{_loss_text(progress.loss)}"
            self._print(f"step   {self.names[job.key]}: {done}, {rate:.3g} steps/s, {left} left")

    def finished(self, job: Job, result: Result | bool) -> None:
        """Print that a job is finished, unless it was finished before this run."""
        self.remaining.end(job.key)
        if isinstance(result, Result):
            self.done += 1
        if job.key in self._last_lines:
            time_left = self.remaining.text() if self.done < self.cells else ""
            time_left = f", about {time_left} left" if time_left else ""
            count = f"  [{self.done} of {self.cells} cells{time_left}]" if self.cells else ""
            self._print(f"done   {self.names[job.key]}{_accuracy_text(result)}{count}")

    def failed(self, job: Job, failure: Failed) -> None:
        """Print why a job failed."""
        self.remaining.end(job.key)
        self._print(f"FAILED {self.names[job.key]}: {failure.reason}")
        if failure.trace:
            self.console.print(failure.trace, markup=False, highlight=False, soft_wrap=True)

    def note(self, line: str) -> None:
        """Print a line worth knowing."""
        self._print(f"note   {line}")


class Failures(Lines):
    """A listener that prints what failed and what is worth knowing, and no progress."""

    def started(self, job: Job) -> None:
        """Print nothing."""

    def progressed(self, job: Job, progress: StepReport) -> None:
        """Print nothing."""

    def finished(self, job: Job, result: Result | bool) -> None:
        """Print nothing."""


class _Rate(ProgressColumn):
    """A column with the speed of a task."""

    def render(self, task: Task) -> Text:
        """Return the steps per second, once they are known."""
        return Text(f"{task.speed:.3g}/s" if task.speed else "", style="progress.data.speed")


class _TimeLeft(TimeRemainingColumn):
    """The time left: of all cells by the work left, of a job by its steps."""

    def render(self, task: Task) -> Text:
        """Return the time left as hours, minutes and seconds."""
        remaining: RemainingTime | None = task.fields.get("remaining")
        if remaining is None:
            return super().render(task)
        return Text(remaining.text() or "-:--:--", style="progress.remaining")


class Bars(Lines):
    """A listener that shows a bar for all cells and one for each running job, with the time left."""

    def __init__(self, console: Console, outline: RunOutline) -> None:
        super().__init__(console, outline)
        columns = (
            TextColumn(
                "{task.description}{task.fields[loss]}",
                table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
            ),
            BarColumn(bar_width=10),
            MofNCompleteColumn(),
            _Rate(),
            _TimeLeft(),
        )
        self.progress = Progress(*columns, console=console, expand=True)
        self._all = self.progress.add_task(
            "cells", total=self.cells, loss="", visible=self.cells > 0, remaining=self.remaining
        )
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
        self.remaining.start(job.key)
        self._bars[job.key] = self.progress.add_task(escape(self.names[job.key]), total=None, loss="")

    def progressed(self, job: Job, progress: StepReport) -> None:
        """Move a bar."""
        self.remaining.progress(job.key, progress.step / max(progress.count, 1))
        loss = _loss_text(progress.loss)
        self.progress.update(self._bars[job.key], completed=progress.step, total=progress.count, loss=loss)

    def finished(self, job: Job, result: Result | bool) -> None:
        """Replace a bar by a line."""
        self.remaining.end(job.key)
        new = job.key in self._bars
        if isinstance(result, Result):
            self.done += 1
            if new:
                self.progress.advance(self._all)
            else:  # finished before this run: no speed of this run
                self.progress.reset(self._all, completed=self.done, total=self.cells)
        if new:
            self.progress.remove_task(self._bars.pop(job.key))
            self._print(f"{self.names[job.key]}{_accuracy_text(result)}")

    def failed(self, job: Job, failure: Failed) -> None:
        """Replace a bar by the reason of the failure."""
        if job.key in self._bars:
            self.progress.remove_task(self._bars.pop(job.key))
        super().failed(job, failure)


def _loss_text(loss: float | None) -> str:
    return "" if loss is None else f", loss {loss:.3f}"


def _accuracy_text(result: Result | bool) -> str:
    return f": {100 * result.test_accuracy:.1f} %" if isinstance(result, Result) else ""


def make_listener(console: Console, outline: RunOutline, *, quiet: bool = False, verbose: bool = False) -> Lines:
    """Return bars for a terminal, lines for a log, or with `quiet` what failed alone."""
    if quiet:
        return Failures(console, outline)
    if console.is_terminal:
        return Bars(console, outline)
    return Lines(console, outline, 1.0 if verbose else SILENCE)
