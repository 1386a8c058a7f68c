"""Protects images that are given as arrays, and trains networks on such images under breakers."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from uebench.components.component import parameter
from uebench.components.errors import UserError
from uebench.components.interfaces import Dataset, Source, Split
from uebench.executors.messages import Failed, RunOutline, StepReport
from uebench.executors.scheduler import JobQueue
from uebench.executors.settings import ExecutionSettings
from uebench.jobs.tensor_files import load_tensors
from uebench.planning.job_names import name_jobs
from uebench.planning.plan import Job, Plan, plan_cells, plan_protect
from uebench.planning.selection import Selection, select_components
from uebench.planning.suite_file import read_suite
from uebench.storage.atomic_files import write_atomically
from uebench.storage.result import Result
from uebench.workflows.run import label_results, plan_with_references

Array = Any
"""A NumPy array, or anything that `numpy.asarray` takes, such as a tensor on the processor."""


class ArraySource(Source):
    """Images and labels from arrays, kept in a file of the store."""

    name: ClassVar[str] = "array"
    paper: ClassVar[str] = "none; the caller's images"

    path: str = parameter(doc="file in the store", identity=False)
    content: str = parameter(doc="SHA-256 of the file")

    def load(self, folder: Path) -> Dataset:
        """Return the arrays as a data set."""
        with np.load(self.path, allow_pickle=False) as file:
            arrays = {name: torch.from_numpy(file[name]) for name in file.files}
        count = 1 + int(max(arrays[name].max() for name in ("labels", "test_labels") if len(arrays[name])))
        return Dataset(
            Split(arrays["images"], arrays["labels"]),
            Split(arrays["test_images"], arrays["test_labels"]),
            [str(number) for number in range(max(count, 2))],
        )


@dataclass
class SilentListener:
    """A listener that keeps the reasons of failures, by the name of a job."""

    names: Mapping[str, str]
    failures: dict[str, str] = field(default_factory=dict)

    def started(self, job: Job) -> None:
        """Ignore it."""

    def progressed(self, job: Job, progress: StepReport) -> None:
        """Ignore it."""

    def finished(self, job: Job, result: Result | bool) -> None:
        """Ignore it."""

    def failed(self, job: Job, failure: Failed) -> None:
        """Keep the reason."""
        self.failures[self.names[job.key]] = failure.reason

    def note(self, line: str) -> None:
        """Ignore it."""


@contextmanager
def open_silent_listener(outline: RunOutline) -> Iterator[SilentListener]:
    """Open a listener that prints nothing."""
    yield SilentListener(outline.names)


def protect_array(
    images: Array, labels: Array, noise: str, suite_name: str, seed: int, settings: ExecutionSettings
) -> np.ndarray:
    """Return the protected images, uint8 in the layout of `images`; raises `UserError`."""
    pixels, channels_last = image_bytes(images, "images")
    source = _store_arrays(settings.store, pixels, class_numbers(labels, len(pixels), "labels"))
    selection = _select(suite_name, source, noises=[noise], seeds=[seed])
    job = plan_protect(source, "", selection.noises[0], selection.recipe, seed)
    plan = Plan(job.victims, [job], [])
    _execute(plan, {job.key: selection for job in plan.jobs}, settings)
    files = settings.open_store().find(job.key)
    assert files
    released = load_tensors(files["released.safetensors"])["images"].numpy()
    return np.ascontiguousarray(released.transpose(0, 2, 3, 1)) if channels_last else released.copy()


def evaluate_array(
    train: tuple[Array, Array],
    test: tuple[Array, Array],
    suite_name: str,
    breakers: Sequence[str],
    targets: Sequence[str],
    recipe: str | None,
    seeds: Sequence[int],
    settings: ExecutionSettings,
) -> list[Result]:
    """Train on images and labels under breakers, and return the results on test images; raises `UserError`."""
    pixels, _ = image_bytes(train[0], "images")
    tested, _ = image_bytes(test[0], "test images")
    source = _store_arrays(
        settings.store,
        pixels,
        class_numbers(train[1], len(pixels), "labels"),
        tested,
        class_numbers(test[1], len(tested), "test labels"),
    )
    selection = _select(
        suite_name, source, noises=["none"], breakers=breakers, targets=targets, recipe=recipe, seeds=seeds
    )
    plan = plan_with_references(selection, lambda source: "")
    plan = plan_cells(cell for cell in plan.cells if cell.chain in selection.chains)
    selections = {job.key: selection for job in plan.jobs}
    queue = _execute(plan, selections, settings)
    return label_results(plan, selections, queue.results, {})


def image_bytes(images: Array, name: str) -> tuple[np.ndarray, bool]:
    """Return images as uint8 (n, c, h, w), and whether the channels came last.

    Images are uint8, or floats in [0, 1], which are rounded to 8 bits. Raises `UserError` for other arrays.
    """
    array = np.asarray(images)
    if array.ndim != 4 or not {1, 3} & {array.shape[1], array.shape[3]}:
        raise UserError(f"{name} must be (n, c, h, w) or (n, h, w, c) with 1 or 3 channels, not {array.shape}")
    if array.dtype.kind == "f":
        if not np.isfinite(array).all() or array.min(initial=0) < 0 or array.max(initial=0) > 1:
            raise UserError(f"{name} as floats must lie in [0, 1]; give 8-bit images as uint8")
        array = np.round(array * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise UserError(f"{name} must be uint8, or floats in [0, 1], not {array.dtype}")
    channels_last = array.shape[1] not in (1, 3)
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2) if channels_last else array), channels_last


def class_numbers(labels: Array, count: int, name: str) -> np.ndarray:
    """Return labels as int64 (n,); raises `UserError` where they are not class numbers from 0."""
    array = np.asarray(labels)
    if array.shape != (count,) or array.dtype.kind not in "iu":
        raise UserError(f"{name} must be {count} class numbers, not {array.dtype} {array.shape}")
    if count and array.min() < 0:
        raise UserError(f"{name} must be class numbers from 0, not {array.min()}")
    return array.astype(np.int64)


def _store_arrays(
    store: Path,
    images: np.ndarray,
    labels: np.ndarray,
    test_images: np.ndarray | None = None,
    test_labels: np.ndarray | None = None,
) -> ArraySource:
    """Write arrays into the store, and return the data set that they are."""
    arrays = {
        "images": images,
        "labels": labels,
        "test_images": images[:0] if test_images is None else test_images,
        "test_labels": labels[:0] if test_labels is None else test_labels,
    }
    header = json.dumps({name: array.shape for name, array in arrays.items()}).encode()
    content = hashlib.sha256(b"".join([header, *(array.tobytes() for array in arrays.values())])).hexdigest()
    path = store.resolve() / "data" / "arrays" / f"{content}.npz"
    if not path.exists():
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]  # names are those of arrays
        write_atomically(path, buffer.getvalue())
    return ArraySource(path=str(path), content=content)


def _select(suite_name: str, source: Source, **lists: Any) -> Selection:
    """Return a suite's selection with another data set."""
    selection = replace(select_components(read_suite(suite_name), **lists)[0], sources=[source])
    selection.suite.labels[source] = source.name  # no plug-in registers it, so no suite has defaults for it
    return selection


def _execute(plan: Plan, selections: Mapping[str, Selection], settings: ExecutionSettings) -> JobQueue:
    """Run the jobs of a plan; raises `UserError` with the reasons where one fails."""
    settings.check()
    settings.open_store().prepare()
    listener = SilentListener(name_jobs(selections, plan.jobs))
    queue = JobQueue(listener)
    if not settings.execute(plan, queue):
        raise KeyboardInterrupt
    if listener.failures:
        raise UserError("; ".join(f"{name}: {reason}" for name, reason in listener.failures.items()))
    return queue
