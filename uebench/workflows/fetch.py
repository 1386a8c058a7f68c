"""`uebench fetch`: loads a data set into the store, so that later runs need no network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from uebench.components.errors import UserError
from uebench.components.interfaces import Source
from uebench.components.registry import registry
from uebench.jobs.datasets import content_fingerprint, load_dataset
from uebench.planning.selection import label_in_suite
from uebench.planning.suite_file import read_suite
from uebench.storage.store import Store


@dataclass(frozen=True)
class FetchReport:
    """A data set in the store: its label, the numbers of its images and classes, and the shape of an image."""

    label: str
    training_images: int
    test_images: int
    shape: str
    classes: int


def fetch_dataset(text: str, suite_name: str, store: Path) -> FetchReport:
    """Load, check and keep a data set, given by specification; raises `UserError` where it cannot be had."""
    suite = read_suite(suite_name)
    source = cast(Source, registry().build("dataset", text, suite.defaults))
    opened = Store(store)
    opened.prepare()
    data = load_dataset(source, content_fingerprint(source, opened), opened)
    if data.skipped:
        raise UserError(f"dataset {source.name}: {len(data.skipped)} files cannot be read, first: {data.skipped[0]}")
    shape = "x".join(map(str, data.train.images.shape[1:]))
    label = label_in_suite(suite, "dataset", source)
    return FetchReport(label, len(data.train.labels), len(data.test.labels), shape, len(data.classes))
