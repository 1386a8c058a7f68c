"""A data set is checked before anything is made of it: shapes, labels, classes, names, what could not be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from tests.conftest import TINY
from tests.plugins.test_contract import pictures
from uebench import Dataset, Source, Split, UserError
from uebench.cli.main import main
from uebench.jobs.datasets import image_names, load_dataset, require_test_split
from uebench.storage.store import Store


def split(labels: Sequence[int], size: int = 6) -> Split:
    return Split(torch.zeros(len(labels), 3, size, size, dtype=torch.uint8), torch.tensor(labels, dtype=torch.int64))


GOOD = Dataset(split([0, 1, 2, 1]), split([2, 0]), ["a", "b", "c"])


class Given(Source):
    """Returns what the test gives it."""

    name = "given"

    def load(self, folder: Path) -> Dataset:
        return GIVEN[0]

    def fingerprint(self, folder: Path) -> str:
        return "given"


class Cropped(Given):
    """Shows networks a part of its images."""

    def augment(self, images: Tensor) -> Tensor:
        return images[..., 1:5, 1:5]


GIVEN = [GOOD]


def test_a_good_set_is_kept_in_the_store_whole(store: Store) -> None:
    GIVEN[0] = replace(GOOD, names=["a/x", "b/y", "c/z", "b/ü"], skipped=["q: broken"])
    first = load_dataset(Given(), "k1", store)
    GIVEN[0] = GOOD
    again = load_dataset(Given(), "k1", store)
    assert torch.equal(first.train.images, again.train.images)
    assert torch.equal(first.test.labels, again.test.labels)
    assert (again.classes, again.names, again.skipped) == (["a", "b", "c"], ["a/x", "b/y", "c/z", "b/ü"], ["q: broken"])


def test_another_version_of_a_source_or_another_of_its_class_name_is_read_anew(store: Store) -> None:
    def source(version_: int, name_: str) -> Source:
        class Same(Source):
            name = name_
            version = version_

            def load(self, folder: Path) -> Dataset:
                return replace(GOOD, classes=[name_, str(version_), "c"])

        return Same()

    found = [load_dataset(source(*one), "", store).classes[:2] for one in ((1, "ours"), (2, "ours"), (1, "theirs"))]
    assert found == [["ours", "1"], ["ours", "2"], ["theirs", "1"]]


WRONG = {
    "a label too high": (replace(GOOD, train=split([0, 3])), "train split: a label lies outside 0 .. 2"),
    "a label too low": (replace(GOOD, test=split([0, -1])), "test split: a label lies outside 0 .. 2"),
    "one class": (replace(GOOD, train=split([0, 0]), test=split([0]), classes=["a"]), "has one class only"),
    "no training image": (replace(GOOD, train=split([])), "train split: 0 images and 0 labels"),
    "a label short": (replace(GOOD, train=replace(split([0, 1]), labels=torch.tensor([0]))), "2 images and 1 labels"),
    "floats": (replace(GOOD, train=Split(torch.zeros(1, 3, 6, 6), torch.tensor([0]))), "images must be uint8"),
    "another size": (replace(GOOD, test=split([0], 5)), r"images are \(3, 6, 6\), test images \(3, 5, 5\)"),
    "a name twice": (replace(GOOD, names=["a", "b", "b", "c"]), "names must be one for each training image"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_set_that_breaks_its_contract_is_refused_by_name(mistake: str, store: Store) -> None:
    GIVEN[0], expected = WRONG[mistake]
    with pytest.raises(UserError, match=f"dataset given.*{expected}"):
        load_dataset(Given(), mistake, store)


def test_networks_may_see_a_part_of_the_stored_images(store: Store) -> None:
    GIVEN[0] = replace(GOOD, test=split([0, 1], 4))
    assert load_dataset(Cropped(), "part", store).train.images.shape[2] == 6
    GIVEN[0] = GOOD
    with pytest.raises(UserError, match=r"augmented training images are \(3, 4, 4\), test images \(3, 6, 6\)"):
        load_dataset(Cropped(), "whole", store)


def test_images_without_names_go_by_class_and_number() -> None:
    assert image_names(GOOD) == ["a/0", "b/1", "c/2", "b/3"]
    many = replace(GOOD, train=split([0] * 11))
    assert image_names(many)[:2] == ["a/00", "a/01"], "in the order of their numbers as text too"
    assert image_names(replace(GOOD, names=["a/x", "b/y", "c/z", "b/w"])) == ["a/x", "b/y", "c/z", "b/w"]


def test_a_set_with_unreadable_or_without_test_images_is_not_run() -> None:
    assert require_test_split(Given(), GOOD) is GOOD
    with pytest.raises(UserError, match=r"cannot read p: broken \(and 1 more\)"):
        require_test_split(Given(), replace(GOOD, skipped=["p: broken", "q: broken"]))
    with pytest.raises(UserError, match="has no test images; it can be protected, not run"):
        require_test_split(Given(), replace(GOOD, test=split([])))


def run(*options: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["run", str(TINY), "--workers", "1", *options])
    return done.exit_code, done.output


def test_one_class_only_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = pictures(tmp_path / "set")
    for part in ("train", "test"):
        for path in (root / part / "dog").iterdir():
            path.unlink()
        (root / part / "dog").rmdir()
    status, output = run("--dataset", "folder:path=set,size=8", "--noise", "none", "--breaker", "none")
    assert status == 2
    assert "dataset folder has one class only; there is nothing to learn" in output
    assert "Traceback" not in output


def test_fewer_images_than_a_batch_are_one_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "set")
    status, output = run("--dataset", "folder:path=set,size=8", "--noise", "em", "--noise", "tap:victim=smallcnn")
    assert status == 0, output
    assert "[6 of 6 cells]" in output
