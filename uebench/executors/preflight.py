"""The preflight check: reads every data set and builds every network before work begins.

A broken data set costs only its own cells.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch

from uebench.components.errors import StoreError, UserError
from uebench.components.interfaces import Source
from uebench.components.spec import component_label
from uebench.executors.isolated_call import IsolatedCaller
from uebench.executors.messages import Failed
from uebench.jobs.datasets import content_fingerprint, load_dataset, require_test_split
from uebench.planning.plan import Cell, Job, Plan, plan_cells
from uebench.storage.store import Store

Value = TypeVar("Value")


def _call_safely(function: Callable[..., Value], *arguments: object) -> Value | Failed | StoreError:
    """Return the value of a call, or its error; raises nothing."""
    try:
        return function(*arguments)
    except StoreError as error:
        return error
    except UserError as error:
        return Failed(str(error))
    except Exception as error:  # foreign code may raise anything
        return Failed(f"{type(error).__name__}: {error}", traceback.format_exc())


def _load_split(source: Source, content: str, store: Store) -> bool:
    require_test_split(source, load_dataset(source, content, store))
    return True


@dataclass(frozen=True)
class BrokenDataset:
    """A data set that cannot be used, why, and the number of cells that cannot be run for that reason."""

    label: str
    failure: Failed
    cells: int

    def __str__(self) -> str:
        return f"data set {self.label} cannot be used, and so {self.cells} cells cannot be run: {self.failure.reason}"


class Preflight:
    """What is known of the data sets of a run.

    With a patience, in seconds, each data set is read in a process that is ended when it takes longer.
    """

    def __init__(self, store: Store, patience: float | None = None) -> None:
        self.store, self._caller = store, IsolatedCaller(patience) if patience else None
        self.contents: dict[Source, str] = {}
        self.failures: dict[Source, Failed] = {}

    def _call(self, source: Source, function: Callable[..., Value], *arguments: object) -> Value | None:
        """Return the value of a call about a data set, None where it fails; the failure is kept."""
        try:
            if self._caller:
                store = Store(self.store.root)  # a store with a callback cannot be sent to a process
                value: Value | Failed | StoreError = self._caller.call(
                    _call_safely, function, source, *arguments, store
                )
            else:
                value = _call_safely(function, source, *arguments, self.store)
        except UserError as error:
            value = Failed(str(error))
        if isinstance(value, StoreError):
            raise value
        if isinstance(value, Failed):
            self.failures[source] = value
            return None
        return value

    def fingerprint(self, source: Source) -> str:
        """Return the fingerprint of a data set's content; empty for a broken one."""
        if source not in self.contents:
            self.contents[source] = self._call(source, content_fingerprint) or ""
        return self.contents[source]

    def load_datasets(self, jobs: Iterable[Job]) -> None:
        """Read the data sets of some jobs into the store."""
        needed = {job.source for job in jobs}
        for source, content in self.contents.items():
            if source in needed and source not in self.failures:
                self._call(source, _load_split, content)
        if self._caller:
            self._caller.close()

    def build_networks(self, cells: Iterable[Cell]) -> None:
        """Build every network that is to be trained, without memory for its weights.

        Raises `UserError` for a network that cannot be built for the images of its data set. The cell itself reports
        any other error.
        """
        built = set()
        for cell in cells:
            if cell.source in self.failures or (cell.target, cell.source) in built:
                continue
            built.add((cell.target, cell.source))
            data = load_dataset(cell.source, cell.protect.fingerprint, self.store)
            channels, height, width = data.test.images.shape[1:]
            with warnings.catch_warnings(action="ignore"), torch.device("meta"):
                try:
                    cell.target.build((channels, height, width), len(data.classes))
                except UserError:
                    raise
                except Exception:  # a network may need weights that are real
                    continue

    def usable_plan(self, plan: Plan) -> Plan:
        """Return the plan of the cells whose data sets are usable.

        Raises `UserError` where the plan has one data set and that is broken by the user's mistake or the source's.
        """
        if len(self.contents) == 1:
            for failure in self.failures.values():
                error = UserError(failure.reason)
                error.trace = failure.trace
                raise error
        return plan_cells(cell for cell in plan.cells if cell.source not in self.failures)

    def broken_datasets(self, plan: Plan) -> list[BrokenDataset]:
        """Return every broken data set, with the number of cells of a plan that it costs."""
        return [
            BrokenDataset(component_label(source), failure, sum(cell.source == source for cell in plan.cells))
            for source, failure in self.failures.items()
        ]
