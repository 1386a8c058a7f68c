"""Loads data sets, validates them, and keeps them decoded in the store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from uebench.components.errors import ContractError, UserError
from uebench.components.interfaces import Dataset, Source, Split
from uebench.components.spec import canonical_text
from uebench.compute.pixels import to_float
from uebench.jobs.tensor_files import load_tensors, tensor_writer
from uebench.storage.atomic_files import canonical_json
from uebench.storage.store import Store


def content_fingerprint(source: Source, store: Store) -> str:
    """Return the fingerprint of a source's content, which its parameters do not name."""
    return source.fingerprint(store.data)


def validate_dataset(source: Source, data: Dataset) -> None:
    """Raise `UserError` for a data set that breaks its contract."""
    for name, split in (("train", data.train), ("test", data.test)):
        images, labels = split.images, split.labels
        subject = f"dataset {source.name}, {name} split"
        if images.dtype != torch.uint8 or images.ndim != 4 or labels.dtype != torch.int64:
            raise ContractError(f"{subject}: images must be uint8 (n, c, h, w) and labels int64 (n,)")
        if len(images) != len(labels) or (name == "train" and not len(labels)):
            raise ContractError(f"{subject}: {len(images)} images and {len(labels)} labels")
        if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= len(data.classes)):
            raise ContractError(f"{subject}: a label lies outside 0 .. {len(data.classes) - 1}")
    augmented, tested = source.augment(to_float(data.train.images[:1])).shape[1:], data.test.images.shape[1:]
    if augmented != tested:
        raise ContractError(
            f"dataset {source.name}: augmented training images are {tuple(augmented)}, test images {tuple(tested)}"
        )
    if data.names and len(set(data.names)) != len(data.train.labels):
        raise ContractError(f"dataset {source.name}: names must be one for each training image, none twice")
    if len(data.classes) < 2:
        raise UserError(f"dataset {source.name} has one class only; there is nothing to learn")


TEXT_FIELDS = ("classes", "names", "skipped")


def dataset_files(source: Source, content: str, store: Store) -> dict[str, Path]:
    """Return the files of a data set in the store; the first call decodes and validates it."""
    identity = f"{canonical_text(source)}/{source!r}/{content}"  # with its version, and the path it was read from
    key = hashlib.sha256(identity.encode(errors="surrogateescape")).hexdigest()[:32]
    with store.lock(key, wait=True):
        files = store.find(key)
        if files is None:
            data = source.load(store.data)
            validate_dataset(source, data)
            store.save(key, _pack_dataset(data))
            files = store.find(key)
    assert files
    return files


def load_dataset(source: Source, content: str, store: Store) -> Dataset:
    """Return a data set on the host; its pixels stay on disk until they are used."""
    files = dataset_files(source, content, store)
    return Dataset(
        load_split(files, "train"), load_split(files, "test"), **json.loads(files["texts.json"].read_bytes())
    )


def load_split(files: Mapping[str, Path], name: str) -> Split:
    """Return the `train` or `test` split of a data set in the store."""
    return Split(**load_tensors(files[f"{name}.safetensors"]))


def require_test_split(source: Source, data: Dataset) -> Dataset:
    """Return a data set if it can be trained and tested on; else raises `UserError`."""
    if data.skipped:
        more = f" (and {len(data.skipped) - 1} more)" if len(data.skipped) > 1 else ""
        raise UserError(f"dataset {source.name}: cannot read {data.skipped[0]}{more}")
    if not len(data.test.labels):
        raise UserError(f"dataset {source.name} has no test images; it can be protected, not run")
    return data


def without_test_split(data: Dataset) -> Dataset:
    """Return a data set with an empty test split of the same image shape, from which a noise is made."""
    return replace(data, test=Split(data.test.images[:0].clone(), data.test.labels[:0].clone()))


def image_names(data: Dataset) -> Sequence[str]:
    """Return the name of each training image, `class/name`; a number where the data set has no names."""
    if data.names:
        return data.names
    width = len(str(len(data.train.labels) - 1))
    return [f"{data.classes[label]}/{index:0{width}d}" for index, label in enumerate(data.train.labels.tolist())]


def _pack_dataset(data: Dataset) -> dict[str, bytes | Callable[[Path], None]]:
    def writer(split: Split) -> Callable[[Path], None]:
        return tensor_writer({"images": split.images, "labels": split.labels})

    texts = {name: list(getattr(data, name)) for name in TEXT_FIELDS}
    return {
        "train.safetensors": writer(data.train),
        "test.safetensors": writer(data.test),
        "texts.json": canonical_json(texts),
    }
