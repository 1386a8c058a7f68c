"""All registered components keep the contract, and match their papers."""

from __future__ import annotations

import os
import tarfile
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import TINY
from tests.plugins.datasets.test_sources import offline, tiny_imagenet
from uebench import Recipe, Source, Target
from uebench.authoring.check import check_component
from uebench.authoring.sample_run import IMAGES, SHAPE
from uebench.components.registry import registry
from uebench.jobs.datasets import content_fingerprint, load_dataset
from uebench.planning.plan import Cell, Protect
from uebench.planning.suite_file import read_suite
from uebench.storage.store import Store

COMPONENTS = [(kind, name) for kind, entries in registry().entries.items() for name in entries]
ARCHIVE = Path(os.environ.get("UEBENCH_CIFAR10_JPEG", "cifar10-jpeg.tar.xz"))


def pictures(root: Path, count: int = 4, size: int = 40) -> Path:
    """Write a folder of two classes whose pictures have one colour each."""
    for part in ("train", "test"):
        for label, name in enumerate(("cat", "dog")):
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (size, size), (10 * index, 200 * label, 50)).save(root / part / name / f"{index}.png")
    return root


def test_every_built_in_component_registers() -> None:
    assert not [problem for problem in registry().problems if problem.distribution == "uebench"]


@pytest.mark.parametrize(("kind", "name"), COMPONENTS)
def test_every_component_keeps_the_contract(
    kind: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pretrained: dict[str, str]
) -> None:
    offline(monkeypatch, tmp_path / "served")
    np.save(tmp_path / "noise.npy", np.full((IMAGES, *SHAPE), 3 / 255))
    text = {
        **pretrained,
        "folder": f"folder:path={pictures(tmp_path / 'set')},size=8",
        "imagenet100": f"imagenet100:path={tiny_imagenet(tmp_path / 'net')},size=16,crop=7",
        "file": f"file:path={tmp_path / 'noise.npy'}",
    }.get(name, name)
    component = registry().build(kind, text, read_suite(str(TINY)).defaults)
    findings = check_component(kind, component)
    assert len(findings) >= 6
    assert [finding for finding in findings if not finding.kept] == []


@pytest.mark.parametrize(("kind", "name"), COMPONENTS)
def test_every_parameter_is_documented(kind: str, name: str) -> None:
    for field in fields(registry().entries[kind][name].cls):  # type: ignore[arg-type]
        assert field.metadata.get("doc"), field.name


@pytest.mark.parametrize(
    ("name", "classes", "parameters"), [("resnet18", 10, 11_173_962), ("resnet18", 100, 11_220_132)]
)
def test_parameter_counts_equal_the_published_counts(name: str, classes: int, parameters: int) -> None:
    target = registry().build("target", name)
    assert isinstance(target, Target)
    assert sum(weight.numel() for weight in target.build((3, 32, 32), classes).parameters()) == parameters


def test_digits_are_8_bit_scans_with_half_of_their_contrast() -> None:
    source = registry().build("dataset", "digits")
    assert isinstance(source, Source)
    data = source.load(Path())
    assert data.train.images.shape == (1297, 3, 8, 8)
    assert data.test.images.shape == (500, 3, 8, 8)
    assert (int(data.train.images.min()), int(data.train.images.max())) == (64, 191)
    assert torch.equal(data.train.images[:, 0], data.train.images[:, 2])
    images = torch.cat([data.train.images, data.test.images]).flatten(1)
    assert len(images.unique(dim=0)) == 1797, "no image is in both splits"


def test_a_folder_is_decoded_once_in_class_order_and_identified_by_its_content(tmp_path: Path) -> None:
    root, store = pictures(tmp_path / "here"), Store(tmp_path / "store")
    source = registry().build("dataset", f"folder:path={root},size=8,train_limit=6")
    assert isinstance(source, Source)
    data = load_dataset(source, content_fingerprint(source, store), store)
    assert data.classes == ["cat", "dog"]
    assert data.train.images.shape == (6, 3, 8, 8)
    assert data.train.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert data.train.images[:, 0, 0, 0].tolist() == [0, 0, 10, 10, 20, 20]
    assert data.test.images.shape[0] == 8
    copy = registry().build("dataset", f"folder:path={pictures(tmp_path / 'there')},size=8,train_limit=6")
    assert isinstance(copy, Source)
    assert content_fingerprint(copy, store) == content_fingerprint(source, store)
    assert load_dataset(copy, content_fingerprint(copy, store), store).classes == data.classes
    Image.new("RGB", (40, 40), (1, 2, 3)).save(root / "train" / "cat" / "0.png")
    assert content_fingerprint(source, store) != content_fingerprint(copy, store)


def test_a_folder_on_another_path_is_the_same_cell(tmp_path: Path) -> None:
    keys = []
    for path in ("here", "there"):
        source = registry().build("dataset", f"folder:path={pictures(tmp_path / path)}")
        noise, breaker, target = (
            registry().build(*pair) for pair in (("noise", "none"), ("breaker", "none"), ("target", "smallcnn"))
        )
        assert isinstance(source, Source)
        protect = Protect(source, content_fingerprint(source, Store(tmp_path)), noise, "fp32", 0)  # type: ignore[arg-type]
        keys.append(Cell(protect, (breaker,), target, Recipe()).key)  # type: ignore[arg-type]
    assert keys[0] == keys[1]


def test_a_jpeg_copy_of_cifar_10_is_read(tmp_path: Path) -> None:
    if not ARCHIVE.exists():
        pytest.skip("UEBENCH_CIFAR10_JPEG names no archive of train/<class>/*.jpg and test/<class>/*.jpg")
    with tarfile.open(ARCHIVE) as archive:
        members = [member for member in archive if member.name.endswith(("0001.jpg", "0002.jpg")) or member.isdir()]
        archive.extractall(tmp_path, members, filter="data")
    source = registry().build("dataset", f"folder:path={tmp_path}")
    assert isinstance(source, Source)
    data = source.load(tmp_path)
    assert len(data.classes) == 10
    assert data.train.images.shape[1:] == (3, 32, 32)
