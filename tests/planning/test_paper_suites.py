"""The suites of the papers plan exactly the published cells, one to one."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from uebench import Noise, Recipe, UserError
from uebench.board.groups import required_labels
from uebench.board.published import CELL_COLUMNS, published_files, read_published
from uebench.components.registry import registry
from uebench.components.spec import canonical_text
from uebench.planning.job_names import cell_labels, name_jobs
from uebench.planning.plan import Cell, plan_cells, plan_selection
from uebench.planning.selection import Selection, select_components
from uebench.planning.suite import Suite
from uebench.planning.suite_file import available_suites, read_suite

PUBLISHED = sorted(published_files())
SIZES = {"rem-table1": 135, "rem-table2": 100, "rem-table3": 60, "rem-table4": 30, "rem-table7": 135}
SIZES |= {"rem-table8": 100, "rem-table9": 60, "rem-table10": 90, "rem-table11": 40}
SIZES |= {"iss-cifar10": 27, "apbench-cifar10": 104}


def cells(name: str) -> list[tuple[Selection, Cell]]:
    """Return every planned cell with its selection; folders that are not here count as given."""
    chosen = read_suite(name)
    there = {text for part in chosen.parts for text in part.datasets}
    datasets = [f"{text}:path=." if text in ("imagenet100", "folder") else text for text in sorted(there)]
    nothing, plain = registry().build("noise", "none"), registry().build("breaker", "none")
    assert isinstance(nothing, Noise)
    return [
        (selection, cell)
        for selection in select_components(chosen, datasets=datasets, seeds=[0])
        for cell in plan_selection(selection, nothing, (plain,), [""] * len(selection.sources)).cells  # type: ignore[arg-type]
    ]


def test_every_table_has_its_suite() -> None:
    assert SIZES.keys() == set(PUBLISHED)
    assert set(PUBLISHED) <= set(available_suites())


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_planned_cells_are_the_published_ones(name: str) -> None:
    planned = Counter(
        (one.dataset, one.noise, one.breaker, one.target, one.protected, one.kind)
        for one in (cell_labels(*pair) for pair in cells(name))
    )
    table = read_published(read_suite(name))
    assert table is not None
    wanted = Counter(table[CELL_COLUMNS].itertuples(index=False, name=None))
    assert planned == wanted
    assert len(wanted) == SIZES[name] == planned.total()
    assert table["percent"].between(0, 100).all()


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_papers_recipe_is_used_as_it_is(name: str) -> None:
    recipes = {cell.recipe for _, cell in cells(name)}
    assert recipes == {Recipe()}
    (recipe,) = recipes
    assert (recipe.steps, recipe.batch, recipe.lr, recipe.schedule, recipe.precision) == (
        40_000,
        128,
        0.1,
        "step",
        "fp32",
    )


@pytest.mark.parametrize(("name", "radius", "adv_radius"), [("rem-table1", 8, 4), ("rem-table8", 16, 8)])
def test_noises_have_the_tables_radii(name: str, radius: int, adv_radius: int) -> None:
    noises = {cell.protect.noise for _, cell in cells(name)}
    assert {round(one.radius * 255) for one in noises if one.name != "none"} == {radius}
    assert adv_radius in {round(one.adv_radius * 255) for one in noises if one.name == "rem"}  # type: ignore[attr-defined]


def test_imagenet_has_settings_of_its_own() -> None:
    found = {
        (cell.protect.source.name, cell.protect.noise.name): cell
        for _, cell in cells("rem-table1")
        if cell.chain[0].name == "adv-linf"
    }
    assert found["cifar10", "rem"].chain[0].steps == 10  # type: ignore[attr-defined]
    assert found["imagenet100", "rem"].chain[0].steps == 8  # type: ignore[attr-defined]
    assert found["imagenet100", "rem"].protect.noise.draws == 4  # type: ignore[attr-defined]
    assert found["imagenet100", "em-rem"].protect.source.size == 224  # type: ignore[attr-defined]
    assert found["imagenet100", "tap"].protect.source.size == 256  # type: ignore[attr-defined]


def test_sems_ablation_is_its_grid() -> None:
    noises = {cell.protect.noise for _, cell in cells("sem-ablation")}
    grid = {
        (one.noise_perturbation, one.surrogate_perturbation)  # type: ignore[attr-defined]
        for one in noises
        if one.name == "rem"
    }
    assert grid == {(one, other) for one in ("none", "adversarial", "random") for other in ("none", "adversarial")}


@pytest.mark.parametrize("name", sorted(available_suites()))
def test_every_suite_can_be_planned_and_its_claims_name_its_cells(name: str) -> None:
    chosen: Suite = read_suite(name)
    found = [cell_labels(*pair) for pair in cells(name)]
    assert found
    noises, breakers = {one.noise for one in found}, {one.breaker for one in found}
    for claim in chosen.claims:
        assert {*claim.lower, *claim.higher} <= noises, claim
        assert set(claim.breakers) <= breakers, claim


def test_a_recipe_is_a_family_and_what_differs_from_it(tmp_path: Path) -> None:
    lists = 'title = "t"\ndatasets = ["digits"]\nnoises = ["none"]\nbreakers = ["none"]\ntargets = ["smallcnn"]\n'
    path = tmp_path / "mine.toml"

    def recipes(text: str, **given: Any) -> list[Recipe]:
        path.write_text(lists + text)
        return [one.recipe for one in select_components(read_suite(str(path)), **given)]

    paper, fast = Recipe(), Recipe(steps=4000, lr=0.6, schedule="one-cycle", precision="bf16", clip=5, hidden_lr=0.1)
    assert recipes("") == [paper]
    assert recipes('[recipe]\nfamily = "fast"') == [fast]
    assert recipes('[recipe]\nfamily = "fast"\nsteps = 10') == [replace(fast, steps=10)]
    wide = '[recipe]\nfamily = "fast"\n[[grid]]\ntargets = ["resnet8"]\n[grid.recipe]\nlr = 0.01\n[[grid]]\n'
    assert recipes(wide) == [replace(fast, lr=0.01), fast], "a target has a recipe of its own"
    mixed = '[recipe]\nlr = 0.2\n[[grid]]\n[grid.recipe]\nfamily = "fast"\n[[grid]]\n[grid.recipe]\nbatch = 64\n'
    assert recipes(mixed) == [fast, replace(paper, lr=0.2, batch=64)], "a family named in a grid starts afresh"
    assert recipes(wide, recipe="paper:batch=64") == [replace(paper, batch=64)] * 2, "what the user says goes first"


def test_a_suite_may_be_like_another_but_for_what_it_says(tmp_path: Path) -> None:
    usual, path, third = read_suite("demo"), tmp_path / "mine.toml", tmp_path / "third.toml"
    path.write_text(
        'like = "demo"\ntargets = ["resnet8"]\nseeds = [4]\n[required]\nbreakers = ["jpeg"]\n'
        "[recipe]\nlr = 0.2\n[defaults.noise.tap]\nnoise_steps = 7\n"
    )
    third.write_text('title = "Third"\nlike = "mine.toml"\n')
    fourth = tmp_path / "fourth.toml"
    fourth.write_text('like = "mine.toml"\n[recipe]\nfamily = "fast"\n')
    found = read_suite(str(path))
    assert (found.name, found.title, found.targets, found.seeds) == ("mine", usual.title, ["resnet8"], [4])
    assert (found.noises, found.breakers, found.datasets) == (usual.noises, usual.breakers, usual.datasets)
    assert (found.required_breakers, found.required_targets) == (["jpeg"], usual.required_targets)
    assert found.recipe == {**usual.recipe, "lr": 0.2}
    assert read_suite(str(fourth)).recipe == {"family": "fast"}, "a family is not mixed with another suite's recipe"
    noises = usual.defaults["noise"]
    assert found.defaults["noise"] == {**noises, "tap": {**noises["tap"], "noise_steps": 7}}
    assert read_suite(str(third)) == replace(found, name="third", title="Third"), "a chain of them, beside each other"


def test_what_no_cross_product_of_a_suite_names_joins_them_all_but_no_data_set_does(tmp_path: Path) -> None:
    path = tmp_path / "several.toml"
    path.write_text(
        'title = "t"\nbreakers = ["none"]\ntargets = ["smallcnn"]\n'
        '[[grid]]\ndatasets = ["digits"]\nnoises = ["none", "em"]\n'
        '[[grid]]\ndatasets = ["cifar10"]\nnoises = ["none", "rem"]\nbreakers = ["adv-linf"]\n'
    )
    chosen = read_suite(str(path))

    def parts(**given: Any) -> list[tuple[list[str], list[str], list[str]]]:
        return [
            (
                [one.name for one in found.sources],
                [one.name for one in found.noises],
                [one.name for (one,) in found.chains],
            )
            for found in select_components(chosen, **given)
        ]

    assert parts(noises=["sem", "em"]) == [(["digits"], ["sem", "em"], ["none"]), (["cifar10"], ["sem"], ["adv-linf"])]
    assert parts(noises=["em"]) == [(["digits"], ["em"], ["none"])], "not where another has it"
    assert parts(noises=["em"], breakers=["jpeg"]) == [(["digits"], ["em"], ["jpeg"])]
    assert parts(noises=["sem"], datasets=["cifar10"]) == [(["cifar10"], ["sem"], ["adv-linf"])]
    with pytest.raises(UserError, match="suite several has no cell of that kind"):
        parts(datasets=["svhn"])


def test_a_suite_may_have_every_run_take_the_breakers_that_its_ranks_need(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    lists = 'title = "t"\ndatasets = ["digits"]\nnoises = ["none"]\ntargets = ["smallcnn"]\n'

    def chains(run: str, **given: Any) -> list[str]:
        path.write_text(f'{lists}breakers = ["none", "jpeg"]\n[required]\nbreakers = ["none", "grayscale"]\n{run}')
        (found,) = select_components(read_suite(str(path)), **given, ranked=True)
        return [one.name for (one,) in found.chains]

    assert chains("", breakers=["cutmix"]) == ["cutmix"]
    assert chains("run = true", breakers=["cutmix", "grayscale"]) == ["cutmix", "grayscale", "none"]
    assert chains("run = true") == ["none", "jpeg"], "the suite's own list stays"
    (other,) = select_components(read_suite(str(path)), breakers=["cutmix"])
    assert [one.name for (one,) in other.chains] == ["cutmix"], "nothing joins what is handed in"
    with pytest.raises(UserError, match=r"Expected `bool`, got `int` - at `\$\.required\.run`"):
        chains("run = 1")


def test_the_first_command_of_the_readme_gives_every_cell_that_a_rank_on_the_demo_board_needs() -> None:
    chosen = read_suite("demo")
    (found,) = select_components(chosen, noises=["rem"], breakers=["adv-linf"], ranked=True)
    assert set(required_labels(chosen)[0]) <= {"+".join(map(canonical_text, one)) for one in found.chains}


@pytest.mark.parametrize("name", ["demo", "cifar10"])
def test_required_breakers_are_among_those_that_are_run_and_cheap_ones_are_required(name: str) -> None:
    chosen = read_suite(name)
    assert set(chosen.required_breakers) <= set(chosen.breakers)
    assert {"grayscale", "ueraser"} <= set(chosen.required_breakers)


@pytest.mark.parametrize("name", sorted(available_suites()))
def test_no_two_jobs_of_a_run_are_called_the_same(name: str) -> None:
    """Not even where one cross product is run on several data sets, or by two recipes."""
    found = cells(name)
    jobs = plan_cells(cell for _, cell in found).jobs
    part = {job.key: selection for selection, cell in found for job in plan_cells([cell]).jobs}
    called = name_jobs(part, jobs)
    assert len(set(called.values())) == len(jobs)
    assert any("recipe" in one for one in called.values()) == (name == "cifar10-recipes"), "nothing needless"
