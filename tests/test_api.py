"""The Python API: what it returns equals what the command line does, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tests.conftest import TINY
from uebench import UserError, api
from uebench.cli.main import main


@pytest.fixture
def arrays() -> tuple[np.ndarray, np.ndarray]:
    """Return images (n, h, w, c) of two classes that differ in brightness, and their labels."""
    generator = np.random.default_rng(0)
    labels = np.arange(64) % 2
    images = generator.integers(0, 100, (64, 8, 8, 3)) + 100 * labels[:, None, None, None]
    return images.astype(np.uint8), labels


def test_a_run_gives_the_numbers_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    frame = api.run(str(TINY), noises=["em"], breakers=["adv-linf"], seeds=[0], store="python")
    done = CliRunner().invoke(
        main, ["run", str(TINY), "--noise", "em", "--breaker", "adv-linf", "--seed", "0", "--workers", "1"]
    )
    assert done.exit_code == 0, done.output
    lines = map(json.loads, Path(".uebench/boards/tiny/results.jsonl").read_text().splitlines())
    expected = {line["key"]: line["test_accuracy"] for line in lines}
    assert dict(zip(frame["key"], frame["test_accuracy"], strict=True)) == expected
    assert list(frame["noise"]) == ["em", "em", "none", "none"]
    for record in (None, "own", "both"):
        assert api.read_record(str(TINY), record, store="python").equals(frame)
    assert api.read_record(str(TINY), "published", store="python").empty


def test_what_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"is missing or has no folder per class"):
        api.run(str(TINY), datasets=["folder:path=nowhere"])
    with pytest.raises(UserError, match=r"unknown noise 'ren'; did you mean rem\?"):
        api.run(str(TINY), noises=["ren"])


def test_published_results_are_a_table() -> None:
    frame = api.read_record("demo")
    assert {"ntga-pgd", "rem", "none"} <= set(frame["noise"])
    assert frame["test_accuracy"].between(0, 1).all()
    assert frame["key"].is_unique


@pytest.mark.parametrize("layout", ["bytes", "floats", "channels first", "tensor"])
def test_protected_images_are_within_the_budget_and_the_same_in_every_layout(
    arrays: tuple[np.ndarray, np.ndarray], layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    images, labels = arrays
    first = images.transpose(0, 3, 1, 2)
    given = {"bytes": images, "floats": images / 255, "channels first": first, "tensor": torch.tensor(first)}[layout]
    protected = api.protect(given, labels, "sc-linf:radius=8/255", suite=str(TINY))
    assert protected.dtype == np.uint8
    assert protected.shape == tuple(given.shape)
    if layout in ("channels first", "tensor"):
        protected = protected.transpose(0, 2, 3, 1)
    change = np.abs(protected.astype(int) - images)
    assert change.max() == 8
    assert np.array_equal(protected, api.protect(images, labels, "sc-linf:radius=8/255", suite=str(TINY)))
    other = api.protect(images, labels, "sc-linf:radius=8/255", suite=str(TINY), seed=1)
    assert not np.array_equal(protected, other)


def test_arrays_are_evaluated_under_breakers(
    arrays: tuple[np.ndarray, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    images, labels = arrays
    words = {"suite": str(TINY), "recipe": "paper:steps=40,batch=16,lr=0.05"}
    frame = api.evaluate(images, labels, images, labels, breakers=["none", "jpeg"], seeds=[0, 1], **words)
    assert list(zip(frame["breaker"], frame["seed"], strict=True)) == [
        ("jpeg", 0),
        ("jpeg", 1),
        ("none", 0),
        ("none", 1),
    ]
    assert frame["test_accuracy"].min() > 0.9, "the classes differ in brightness"
    swapped = api.evaluate(images, 1 - labels, images, labels, **words)
    assert list(swapped["breaker"]) == ["none"]
    assert swapped["test_accuracy"].max() < 0.1, "it learned the labels that it was given"


@pytest.mark.parametrize(
    ("images", "labels", "reason"),
    [
        (np.zeros((4, 8, 8)), np.zeros(4, int), r"images must be \(n, c, h, w\) or \(n, h, w, c\) with 1 or 3"),
        (
            np.full((4, 8, 8, 3), 2.0),
            np.zeros(4, int),
            r"\[0, 1\]; give 8-bit images as uint8",
        ),
        (np.full((4, 8, 8, 3), np.nan), np.zeros(4, int), r"images as floats must lie in \[0, 1\]"),
        (np.zeros((4, 8, 8, 3), int), np.zeros(4, int), r"images must be uint8, or floats in \[0, 1\], not int64"),
        (np.zeros((4, 8, 8, 3)), np.zeros(3, int), r"labels must be 4 class numbers, not int64 \(3,\)"),
        (np.zeros((4, 8, 8, 3)), np.zeros((4, 10)), r"labels must be 4 class numbers, not float64 \(4, 10\)"),
        (np.zeros((4, 8, 8, 3)), np.full(4, -1), r"labels must be class numbers from 0, not -1"),
    ],
)
def test_other_arrays_are_refused_with_the_reason(
    images: np.ndarray, labels: np.ndarray, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=reason):
        api.protect(images, labels, "sc-linf", store=tmp_path)
    assert not list(tmp_path.iterdir())


def test_importing_it_loads_no_torch() -> None:
    code = "import sys, uebench.api; print({'torch', 'pandas', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
