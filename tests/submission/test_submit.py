"""`uebench submit`: what goes into a bundle, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from msgspec import structs

from tests.conftest import TINY
from tests.submission.factory import (
    BREAKER,
    put_in_store,
    put_on_board,
    record,
    results,
)
from uebench.components.registry import registry
from uebench.planning.plan import Cell, plan_selection
from uebench.planning.selection import Selection, select_components
from uebench.planning.suite_file import read_suite
from uebench.storage.result import Result
from uebench.storage.results_file import write_results
from uebench.storage.store import Store
from uebench.submission import submit
from uebench.submission.bundle import read_bundle


def test_what_would_not_be_valid_is_not_packed(em: list[Result], refuse: Callable[..., None], tmp_path: Path) -> None:
    def submit(*words: str) -> list[str]:
        return ["submit", str(TINY), "--into", "x.zip", "--name", "Ada", *words]

    lacking = "the entry lacks em / adv-linf / smallcnn seed 0; em / none / smallcnn seed 0; none / adv-linf / smallcnn"
    refuse(*submit("--noise", "em"), expected=lacking)
    put_in_store(tmp_path / ".uebench", [one for one in em if one.noise == "none"])
    refuse(*submit("--noise", "em"), expected=lacking)
    against = ("--noise", "em", "--breaker", BREAKER)
    refuse(*submit(*against), expected=f"the entry lacks em / {BREAKER} / smallcnn seed 0; none / {BREAKER} / smallcnn")
    put_in_store(tmp_path / ".uebench", em)
    refuse(
        *submit("--noise", "em"), expected="the store .uebench has no result of making em for digits, seed 0; give the"
    )
    refuse(*submit("--noise", "rme"), expected="unknown noise 'rme'; did you mean rem?")
    refuse(
        *submit("--noise", "em", "--dataset", "digits", "--dataset", "digits:pad=2"),
        expected="is of one dataset, not 2",
    )
    two = ("--breaker", BREAKER, "--breaker", "grayscale")
    refuse(*submit("--noise", "em", *two), expected="a submission is of one breaker, not 2")


def test_what_the_store_does_not_bear_out_is_not_packed(
    em: list[Result],
    call: Callable[..., str],
    refuse: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Store, "find", lambda self, key: {"released.safetensors": TINY})
    words = ("submit", str(TINY), "--noise", "em", "--name", "Ada", "--into")
    put_in_store(tmp_path / ".uebench", em)
    changed = [structs.replace(one, ssim=one.ssim / 2) if one.noise == "em" else one for one in em]
    write_results(tmp_path / ".uebench/boards/tiny/results.jsonl", {one.key: one for one in changed})
    refuse(*words, "x.zip", expected="the store .uebench has other numbers of em / ")
    others = [one for one in em if one.noise != "em"]
    put_in_store(tmp_path / "other", others)
    write_results(tmp_path / "other/boards/tiny/results.jsonl", {one.key: one for one in em})
    refuse(*words, "x.zip", "--store", "other", expected="the store other has no result of em / ")


def test_published_numbers_are_never_packed(
    em: list[Result], call: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "find", lambda self, key: {"released.safetensors": TINY})
    published = results("em", right={"em": 300})
    put_on_board(tmp_path / "leaderboards", published)
    put_in_store(tmp_path / ".uebench", em)
    call("submit", str(TINY), "--noise", "em", "--name", "Ada", "--into", "em.zip")
    packed = {one.key: one.test_accuracy for one in read_bundle(tmp_path / "em.zip").results}
    assert packed == {one.key: one.test_accuracy for one in em}
    assert packed != {one.key: one.test_accuracy for one in published}


def grids(folder: Path, second: str, third: str) -> Path:
    """Write a suite of three cross products on one data set: the clean set, em, and em on half of the images."""
    whole = TINY.read_text().replace('noises = ["none", "em", "rem"]\n', "")
    parts = ('["none"]', f'["em"]\n{second}', f'["em"]\nprotected = [0.5]\n{third}')
    (folder / "several.toml").write_text(whole + "".join(f"\n[[grid]]\nnoises = {part}\n" for part in parts))
    return folder / "several.toml"


def test_several_grids_on_one_data_set_are_handed_in_where_they_mean_the_same(
    call: Callable[..., str], refuse: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "find", lambda self, key: {"released.safetensors": TINY})
    own = "[grid.defaults.noise.em]\nsteps = 10"
    path = str(grids(tmp_path, own, own))
    cells = {
        cell.key: (part, cell)
        for part in select_components(read_suite(path), seeds=[0, 1, 2])
        for cell in planned(part)
    }
    found = [record(part, cell, 700 + 7 * cell.protect.seed) for part, cell in cells.values() if cell.protected == 1]
    assert {one.noise for one in found} == {"none", "em"}, "each named by its grid, whose default is 10"
    put_in_store(tmp_path / ".uebench", found, "several")
    words = ("submit", path, "--noise", "em", "--name", "Ada", "--into")
    assert "entry     noise em on digits in suite several, by Ada\ncells     12 results" in call(*words, "em.zip")
    assert call("verify", "em.zip", "--suite", path).endswith("badge     valid\n")
    grids(tmp_path, own, own.replace("10", "11"))
    refuse(*words, "x.zip", expected="grids of suite several mean different noises: em:radius=32/255,")
    grids(tmp_path, "[grid.recipe]\nsteps = 30", "[grid.recipe]\nsteps = 30")
    refuse(*words, "x.zip", expected="suite several runs this by the recipe sgd:steps=30,")


def planned(part: Selection) -> Sequence[Cell]:
    return plan_selection(part, registry().build("noise", "none"), (registry().build("breaker", "none"),), [""]).cells  # type: ignore[arg-type]


def test_results_that_do_not_say_what_they_were_made_with_are_not_packed(
    em: list[Result], refuse: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "find", lambda self, key: {"released.safetensors": TINY})
    put_in_store(tmp_path / ".uebench", [structs.replace(one, made_with={"device": "x"}) for one in em])
    words = ("submit", str(TINY), "--noise", "em", "--into", "x.zip", "--name", "Ada")
    refuse(*words, expected="made_with: Object missing required field `uebench`")


def test_results_of_another_release_than_is_installed_are_not_packed(
    em: list[Result], refuse: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in_store(tmp_path / ".uebench", em)
    monkeypatch.setattr(Store, "find", lambda self, key: {"released.safetensors": TINY})
    monkeypatch.setattr(submit, "hash_distribution", lambda name: ("9.9", "0" * 64))
    words = ("submit", str(TINY), "--noise", "em", "--into", "x.zip", "--name", "Ada")
    refuse(*words, expected="results were made with uebench 0.1.0; 9.9 is installed here")
