"""What a job reports while it runs and how it ends; sent between processes and machines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # the process that keeps the messages of a Ray cluster loads this module and should stay small
    from uebench.planning.plan import Job
    from uebench.storage.result import Result


@dataclass(frozen=True)
class Begun:
    """A process took a job; `node` is that of a Ray cluster."""

    node: str = ""


@dataclass(frozen=True)
class StepReport:
    """A job has done `step` of `count` steps, with this training loss if it has one."""

    step: int
    count: int
    loss: float | None


@dataclass(frozen=True)
class Note:
    """A line worth knowing."""

    line: str


@dataclass(frozen=True)
class Silent:
    """A job reported nothing for longer than its patience."""


@dataclass(frozen=True)
class Done:
    """A job is finished; a cell has its result."""

    result: Result | bool


@dataclass(frozen=True)
class Held:
    """A job cannot start yet, as another process holds the lock of this key."""

    key: str


@dataclass(frozen=True)
class Failed:
    """A job failed; `trace` is empty for a mistake of the user."""

    reason: str
    trace: str = ""


@dataclass(frozen=True)
class Skipped:
    """A job was not tried, as a job that it needs failed."""


Outcome = Done | Held | Failed
"""How an attempt at a job ended."""
Message = Begun | StepReport | Note | Silent | Outcome
"""What a process sends about its job."""


class Listener(Protocol):
    """Follows a run, for the person who watches it."""

    def started(self, job: Job) -> None:
        """Note that a job began."""

    def progressed(self, job: Job, progress: StepReport) -> None:
        """Note how far a job is."""

    def finished(self, job: Job, result: Result | bool) -> None:
        """Note that a job is finished, in this run or before it."""

    def failed(self, job: Job, failure: Failed) -> None:
        """Note that a job failed."""

    def note(self, line: str) -> None:
        """Take a line worth knowing."""


@dataclass(frozen=True)
class RunOutline:
    """What is known of a run before it starts: the names of its jobs by key, and the number of its cells.

    `work` has the expected work of each unfinished job by key, all in one unit; empty where nobody asks for the time.
    """

    names: Mapping[str, str]
    cells: int = 0
    work: Mapping[str, float] = field(default_factory=dict)


OpenListener = Callable[[RunOutline], AbstractContextManager[Listener]]
"""Opens a listener for a run."""


def death_message(status: int | None) -> str:
    """Return the reason of a job whose process ended without an answer."""
    return f"its process died (exit code {status}); out of memory?"


def silence_message(patience: float) -> str:
    """Return the reason of a job that reported nothing for `patience` seconds."""
    return f"it reported nothing for {patience:g} s (--patience), so its process was ended"
