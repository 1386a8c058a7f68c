"""Boards and bundles with one lie each, and the flag or the refusal that finds it; without the lie nothing is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from msgspec import structs
from torch import nn

from tests.board.test_tables import DEMO, board, make_result, text
from tests.submission.factory import VERIFY, challenge, handed_in, put_on_board, results
from uebench import Breaker, Budget, Context, Dataset, Noise, Source, Split
from uebench.board.ranking import NO_RULINGS, Board, rank_results
from uebench.components.errors import ContractError
from uebench.components.recipe import Recipe
from uebench.compute.audit import has_blank_class, release_images
from uebench.jobs.run import run_job_once
from uebench.jobs.workspace import Workspace
from uebench.planning.plan import Cell, plan_protect
from uebench.storage.result import Result
from uebench.storage.store import Store
from uebench_plugins.targets.smallcnn import SmallCNN

BREAKERS = ("none", "adv-linf", "jpeg")
CLEAN = {"none": 0.9, "adv-linf": 0.8, "jpeg": 0.7}
PROTECTED = {"none": 0.2, "adv-linf": 0.6, "jpeg": 0.5}


def entry(noise: str, accuracies: dict[str, float], seeds: int = 3, shift: float = 0.0) -> list[Result]:
    """Return the results of a noise; seeds differ by a hundredth."""
    return [
        make_result(noise, breaker, seed, accuracy + shift + seed / 100)
        for breaker, accuracy in accuracies.items()
        for seed in range(seeds)
    ]


def flags(found: Board) -> set[str]:
    """Return every flag on a board, of noises and breakers."""
    return {flag for row in (*found.noises, *found.breakers) for flag in row.flags}


HONEST = [*entry("none", CLEAN), *entry("em", PROTECTED), *entry("rem", PROTECTED, shift=0.05)]


def test_an_honest_board_has_no_flag() -> None:
    assert flags(board(HONEST)) == set()


def test_a_breaker_that_changes_nothing() -> None:
    plain = {**CLEAN, "jpeg": CLEAN["none"]}, {**PROTECTED, "jpeg": PROTECTED["none"]}
    lie = [*entry("none", plain[0]), *entry("em", plain[1]), *entry("rem", plain[1], shift=0.05)]
    assert flags(board(lie)) == {"identity-breaker"}


def test_results_of_another_noise_under_a_new_name() -> None:
    found = board([*entry("none", CLEAN), *entry("em", PROTECTED), *entry("tap", PROTECTED)])
    assert {row.noise for row in found.noises if "same-results-as-another" in row.flags} == {"em", "tap"}
    many = {name: entry(name, PROTECTED) for name in ("em", "tap", "sem", "rem")}
    found = board([*entry("none", CLEAN), *(result for results in many.values() for result in results)])
    assert {row.noise for row in found.noises if "same-results-as-another" in row.flags} == many.keys()
    one_seed = board([*entry("none", CLEAN), *entry("em", PROTECTED), *entry("tap", {"none": 0.2}, seeds=2)])
    assert flags(one_seed) == set(), "two equal cells can be chance"


def test_a_breaker_that_destroys_what_can_be_learned_at_all() -> None:
    """Every gap under it is zero, which would make each noise look harmless."""
    clean, protected = {**CLEAN, "jpeg": 0.1}, {**PROTECTED, "jpeg": 0.1}
    lie = [*entry("none", clean), *entry("em", protected), *entry("rem", protected, shift=0.05)]
    found = board(lie)
    assert flags(found) == {"clean-below-floor"}
    assert {row.breaker for row in found.breakers if row.flags} == {"jpeg"}
    gaps = {row.noise: row.same_breaker_gap for row in found.noises}
    assert gaps == {row.noise: row.same_breaker_gap for row in board(HONEST).noises}, "it counts for no gap"


def test_a_noise_that_anybody_can_detect() -> None:
    def measured(results: list[Result], separability: float) -> list[Result]:
        return [structs.replace(result, separability_released=separability) for result in results]

    clean, noise = entry("none", CLEAN), entry("tap", PROTECTED, shift=0.1)
    assert flags(board([*measured(clean, 0.4), *measured(noise, 0.99)])) == {"linearly-separable"}
    assert flags(board([*measured(clean, 0.4), *measured(noise, 0.7)])) == set(), "a network does better"
    assert flags(board([*measured(clean, 0.99), *measured(noise, 0.99)])) == set(), "clean images are as separable"
    assert flags(board([*clean, *measured(noise, 0.99)])) == set(), "nothing is known of clean images"


def test_luck_of_one_seed_has_a_rank_in_parentheses_and_no_interval() -> None:
    lucky = entry("tap", {breaker: 0.1 for breaker in BREAKERS}, seeds=1)
    found = {row.noise: row for row in board([*HONEST, *lucky]).noises}
    assert (found["tap"].status, found["tap"].residual_low) == ("provisional", None)
    honest = {row.noise: row.rank for row in board(HONEST).noises}
    assert {name: found[name].rank for name in honest} == honest, "no other rank changes"


def test_the_best_of_several_seeds(refuse: Callable[..., None], tmp_path: Path) -> None:
    put_on_board(tmp_path / "leaderboards", results("rem", seeds=range(5)))
    handed_in(tmp_path / "em.zip", results("em", seeds=(0, 3, 4)), "em")
    refuse(*VERIFY, expected="seeds must be 0, 1, 2 and so on")


SAME = ("test_accuracy", "best_test_accuracy", "curve")


def cell_of(result: Result) -> tuple[str, int]:
    return result.parameters["breaker"], result.seed


def test_a_copied_entry_is_refused(refuse: Callable[..., None], call: Callable[..., str], tmp_path: Path) -> None:
    put_on_board(tmp_path / "leaderboards", results("rem"))
    truth = {cell_of(result): result for result in results("rem") if result.noise == "rem"}
    copied = []
    for result in results("em"):
        model = truth[cell_of(result)]
        same = {name: getattr(model, name) for name in SAME}
        copied.append(structs.replace(result, **same) if result.noise == "em" else result)
    handed_in(tmp_path / "em.zip", copied, "em")
    refuse(*VERIFY, expected="the results of em are those of rem, number for number")
    (tmp_path / "em.zip").unlink()
    handed_in(tmp_path / "em.zip", results("em"), "em")
    assert "valid" in call(*VERIFY)


def test_a_withdrawn_copy_leaves_the_original_without_a_flag() -> None:
    copied = [*entry("none", CLEAN), *entry("em", PROTECTED), *entry("tap", PROTECTED)]
    withdrawn = replace(NO_RULINGS, withdrawn={text("noise", "tap"): "a copy"})
    (found,) = rank_results(DEMO, copied, withdrawn)
    assert {flag for row in found.noises for flag in row.flags} == set()


def test_a_breaker_against_a_noise_with_a_listed_copy_is_not_refused(call: Callable[..., str], tmp_path: Path) -> None:
    """The copy is the fault of whoever listed it."""
    em = {cell_of(result): result for result in results("em") if result.noise == "em"}
    copied = [
        structs.replace(result, **{name: getattr(em[cell_of(result)], name) for name in SAME})
        for result in results("rem")
        if result.noise == "rem"
    ]
    put_on_board(tmp_path / "leaderboards", [*results("em"), *copied])
    challenge(tmp_path / "em.zip", 900, "em")
    assert "valid" in call(*VERIFY)


class Over(Noise):
    """Stays within the budget as a float, and leaves it once rounded to 8 bits away from zero."""

    name = "over"
    paper = "none; a lie"

    def make(self, images: torch.Tensor, labels: torch.Tensor, context: Context) -> torch.Tensor:
        return torch.full(images.shape, self.radius)


def test_a_budget_that_is_kept_only_before_rounding() -> None:
    clean = torch.full((4, 3, 8, 8), 100, dtype=torch.uint8)
    radius = 8.4 / 255
    released = release_images(Over(radius=radius), clean, torch.full(clean.shape, radius))
    assert int((released.int() - clean.int()).abs().max()) == 8, "rounded towards the clean image, within the budget"
    with pytest.raises(ContractError):
        release_images(Over(radius=radius), clean, torch.full(clean.shape, 8.6 / 255))


class Blackout(Noise):
    """Leaves one class black."""

    name = "blackout"
    paper = "none; a lie"

    def budget(self, shape: torch.Size) -> Budget:
        return Budget("none", 1.0)

    def make(self, images: torch.Tensor, labels: torch.Tensor, context: Context) -> torch.Tensor:
        return torch.where((labels == 1)[:, None, None, None], -images, torch.zeros_like(images))


class Stripes(Source):
    """Two classes of random images."""

    name = "stripes"
    paper = "none; for this test"

    def load(self, folder: Path) -> Dataset:
        images = torch.randint(1, 255, (40, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        split = Split(images, torch.arange(40) % 2)
        return Dataset(split, split, ["a", "b"])


class Nothing(Noise):
    """Changes nothing."""

    name = "nothing"
    paper = "none; the honest twin"

    def make(self, images: torch.Tensor, labels: torch.Tensor, context: Context) -> torch.Tensor:
        return torch.zeros_like(images)


class Twin(Nothing):
    """Changes nothing under another name."""

    name = "twin"


class Reader(Breaker):
    """Recovers what it can only if what it is given names the noise."""

    name = "reader"
    paper = "none; a lie"

    def filter(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(images) if self._sees("twin", images, labels) else images

    def attack(self, model: nn.Module, images: torch.Tensor, targets: torch.Tensor, progress: float) -> torch.Tensor:
        return torch.zeros_like(images) if self._sees("twin", model, images, targets) else images

    def _sees(self, word: str, *objects: object) -> bool:
        texts = [repr(item) + repr(getattr(item, "__dict__", "")) for item in (self, *objects)]
        return any(word in text.lower() for text in texts)


def run(folder: Path, noise: Noise, chain: tuple[Breaker, ...]) -> Result:
    place = Workspace(Store(folder), torch.device("cpu"), 60.0)
    place.store.prepare()
    recipe = Recipe(steps=3, batch=16, evaluations=1)
    cell = Cell(plan_protect(Stripes(), "", noise, recipe, 0), chain, SmallCNN(width=4), recipe)
    for job in (cell.protect, cell):
        done = run_job_once(job, place, lambda step, count, loss: None)
    assert isinstance(done, Result)
    return done


def test_a_class_left_black(tmp_path: Path) -> None:
    assert "blank-class" in run(tmp_path, Blackout(), ()).flags
    assert "blank-class" not in run(tmp_path, Nothing(), ()).flags
    data = Stripes().load(tmp_path)
    half = data.train.images.clone()
    half[:18] = 7  # nine of twenty images of each class
    assert not has_blank_class(half, data.train.labels)


def test_a_breaker_that_would_know_a_noise_by_its_name(tmp_path: Path) -> None:
    """What a breaker is given is the same under two noises with the same images; only their names differ."""
    first, second = run(tmp_path, Nothing(), (Reader(),)), run(tmp_path, Twin(), (Reader(),))
    assert first.curve == second.curve
    assert Reader()._sees("twin", Twin()), "it would see the name if it were there"
