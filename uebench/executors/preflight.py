"""Looks at every data set and network before work begins; a broken data set costs its own cells only."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import click
import torch

from uebench.components.errors import StoreError, UserError
from uebench.components.interfaces import Source
from uebench.components.spec import component_label
from uebench.executors.isolated_call import IsolatedCaller
from uebench.jobs.datasets import content_fingerprint, load_dataset, require_test_split
from uebench.planning.plan import Cell, Job, Plan, Protect, Victim, plan_cells
from uebench.storage.store import Store

Looked = TypeVar("Looked")


@dataclass(frozen=True)
class BrokenDataset:
    """Why a data set cannot be used; the trace is empty for a user's mistake."""

    reason: str
    trace: str = ""


def _try(ask: Callable[..., Looked], *arguments: object) -> Looked | BrokenDataset | StoreError:
    """Return what a call gives, or what is wrong; no source's mistake is raised."""
    try:
        return ask(*arguments)
    except StoreError as error:
        return error
    except UserError as error:
        return BrokenDataset(str(error))
    except Exception as error:  # a stranger's source may do anything
        return BrokenDataset(f"{type(error).__name__}: {error}", traceback.format_exc())


def _ready(source: Source, content: str, store: Store) -> bool:
    require_test_split(source, load_dataset(source, content, store))
    return True


class Preflight:
    """What is known of data sets; with a patience, in seconds, each is looked at in a process that may be ended."""

    def __init__(self, store: Store, patience: float | None = None) -> None:
        self.store, self.aside = store, IsolatedCaller(patience) if patience else None
        self.contents: dict[Source, str] = {}
        self.broken: dict[Source, BrokenDataset] = {}

    def _ask(self, source: Source, ask: Callable[..., Looked], *arguments: object) -> Looked | None:
        try:
            if self.aside:
                store = Store(self.store.root)  # what the other says cannot be sent to a process
                found: Looked | BrokenDataset | StoreError = self.aside.ask(_try, ask, source, *arguments, store)
            else:
                found = _try(ask, source, *arguments, self.store)
        except UserError as error:
            found = BrokenDataset(str(error))
        if isinstance(found, StoreError):
            raise found
        if isinstance(found, BrokenDataset):
            self.broken[source] = found
            return None
        return found

    def fingerprint(self, source: Source) -> str:
        """Return what identifies a data set's content; of a broken one nothing is known."""
        if source not in self.contents:
            self.contents[source] = self._ask(source, content_fingerprint) or ""
        return self.contents[source]

    def prepare(self, jobs: Iterable[Job]) -> None:
        """Read the data sets of some jobs into the store."""
        wanted = {job.source if isinstance(job, Victim | Protect) else job.protect.source for job in jobs}
        for source, content in self.contents.items():
            if source in wanted and source not in self.broken:
                self._ask(source, _ready, content)
        if self.aside:
            self.aside.close()

    def build(self, jobs: Iterable[Job]) -> None:
        """Build every network that is to be trained, without its weights; raises `UserError` for one that cannot be
        built for the images of its data set. Any other error is left to the cell.
        """
        asked = set()
        for cell in jobs:
            if not isinstance(cell, Cell) or cell.protect.source in self.broken:
                continue
            pair = cell.target, cell.protect.source
            if pair in asked:
                continue
            asked.add(pair)
            data = load_dataset(cell.protect.source, cell.protect.fingerprint, self.store)
            channels, height, width = data.test.images.shape[1:]
            with warnings.catch_warnings(action="ignore"), torch.device("meta"):
                try:
                    cell.target.build((channels, height, width), len(data.classes))
                except UserError:
                    raise
                except Exception:  # a stranger's network may need weights that are real
                    continue

    def sound(self, plan: Plan) -> Plan:
        """Return the plan of the cells whose data sets are not broken; raises `UserError` where a single one is."""
        for fault in self.broken.values():
            if fault.trace:
                click.echo(fault.trace, err=True)
            if len(self.contents) == 1:
                raise UserError(fault.reason)
        return plan_cells(cell for cell in plan.cells if cell.protect.source not in self.broken)

    def failures(self, plan: Plan) -> Iterator[str]:
        """Yield a line about each broken data set, with what it costs of a plan."""
        for source, fault in self.broken.items():
            cells = sum(cell.protect.source == source for cell in plan.cells)
            name = component_label(source)
            yield f"data set {name} cannot be used, and so {cells} cells cannot be run: {fault.reason}"
