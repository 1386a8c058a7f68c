"""Loads data sets: checks them, and keeps those whose content has a fingerprint decoded in the store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import safetensors.torch
import torch

from uebench import spec
from uebench.api import Dataset, Source, Split, UserError
from uebench.audit import ContractError
from uebench.store import Store, pack


def fingerprint(source: Source, store: Store) -> str:
    """Return what identifies the content of a source beyond its parameters."""
    return source.fingerprint(store.data)


def validate(source: Source, data: Dataset) -> None:
    """Raise `UserError` for a data set that breaks its contract."""
    for name, split in (("train", data.train), ("test", data.test)):
        images, labels = split.images, split.labels
        where = f"dataset {source.name}, {name} split"
        if images.dtype != torch.uint8 or images.ndim != 4 or labels.dtype != torch.int64:
            raise ContractError(f"{where}: images must be uint8 (n, c, h, w) and labels int64 (n,)")
        if len(images) != len(labels) or not len(labels):
            raise ContractError(f"{where}: {len(images)} images and {len(labels)} labels")
        if int(labels.min()) < 0 or int(labels.max()) >= len(data.classes):
            raise ContractError(f"{where}: a label lies outside 0 .. {len(data.classes) - 1}")
    if data.train.images.shape[1:] != data.test.images.shape[1:]:
        raise ContractError(f"dataset {source.name}: training and test images differ in shape")
    if len(data.classes) < 2:
        raise UserError(f"dataset {source.name} has one class only; there is nothing to learn")


_LOADED: dict[tuple[Source, str], Dataset] = {}  # the data set that this process used last


def load(source: Source, content: str, store: Store) -> Dataset:
    """Return a data set on the host, checked; one with a fingerprint is decoded once and kept in the store."""
    if (source, content) in _LOADED:
        return _LOADED[source, content]
    key = hashlib.sha256(f"{spec.canonical(source)}/{content}".encode()).hexdigest()[:32]
    with store.lock(key, wait=True):
        files = store.load(key) if content else None
        if files is None:
            data = source.load(store.data)
            validate(source, data)
            if content:
                store.save(key, _packed(data))
        else:
            data = _unpacked(files)
    _LOADED.clear()
    _LOADED[source, content] = data
    return data


def _packed(data: Dataset) -> dict[str, bytes]:
    splits = {"train": data.train, "test": data.test}
    tensors = {f"{name}.images": split.images.contiguous() for name, split in splits.items()}
    tensors |= {f"{name}.labels": split.labels for name, split in splits.items()}
    return {"data.safetensors": safetensors.torch.save(tensors), "classes.json": pack(list(data.classes))}


def _unpacked(files: Mapping[str, bytes]) -> Dataset:
    tensors = safetensors.torch.load(files["data.safetensors"])
    train, test = (Split(tensors[f"{name}.images"], tensors[f"{name}.labels"]) for name in ("train", "test"))
    return Dataset(train, test, json.loads(files["classes.json"]))
