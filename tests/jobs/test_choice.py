"""A breaker that chooses: on held-out protected images alone, by one draw, to the same bits wherever it is done."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from msgspec import structs
from torch import Tensor

from tests.conftest import ROOT, TINY
from tests.jobs.test_jobs import CPU, DIGITS, VICTIM, Killed, Prompt, Witness, released_by, silent
from uebench import Breaker, Recipe, Split, UserError
from uebench.board.publish import label_result
from uebench.board.ranking import rank_results
from uebench.board.tables import breaker_table
from uebench.cli.main import main
from uebench.components.spec import chain_text
from uebench.compute.seeds import derive_seed
from uebench.compute.train import build_network, train_network
from uebench.executors.local import run_locally
from uebench.executors.scheduler import JobQueue
from uebench.jobs import cell
from uebench.jobs.checkpoint import StoredProgress
from uebench.jobs.choice import best_trial, split_held_out
from uebench.jobs.run import find_finished, run_job
from uebench.jobs.training_set import apply_filters
from uebench.jobs.workspace import Workspace
from uebench.planning.plan import Cell, Plan, plan_selection
from uebench.planning.selection import Selection
from uebench.planning.suite_file import read_suite
from uebench.storage.result import VARYING_FIELDS, Result, parse_result
from uebench.storage.store import Store
from uebench_plugins.breakers.adv_linf import AdvLinf
from uebench_plugins.breakers.best_of import BestOf
from uebench_plugins.breakers.compression import Grayscale, Jpeg
from uebench_plugins.breakers.none import NoBreaker
from uebench_plugins.noises.none import NoNoise
from uebench_plugins.noises.sc import SC

RECIPE = Recipe(steps=12, batch=64, evaluations=2)
NOISE = SC(radius=0.1, patch=2)
CHOOSER = BestOf(of=(NoBreaker(), Grayscale(), Jpeg(quality=30)), held_out=0.25)


def selected(*chains: tuple[Breaker, ...]) -> Selection:
    return Selection(read_suite(str(TINY)), [DIGITS], [NOISE], chains, [VICTIM], RECIPE, [0])


def planned(*chains: tuple[Breaker, ...]) -> Plan:
    return plan_selection(selected(*chains), NoNoise(), (NoBreaker(),), [""])


def under(made: Plan, chain: tuple[Breaker, ...]) -> Cell:
    return next(cell for cell in made.cells if cell.protect.noise == NOISE and cell.chain == chain)


CELL = under(planned((CHOOSER,)), (CHOOSER,))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Return a place where the cell was done in one go."""
    place = Workspace(Store(tmp_path_factory.mktemp("done")), CPU)
    run_job(CELL, place, silent)
    return place


def record(cell: Cell, place: Workspace) -> Result:
    found = find_finished(cell, place.store)
    assert isinstance(found, Result)
    return found


def numbers(one: Result) -> dict[str, Any]:
    return {name: value for name, value in json.loads(one.line()).items() if name not in VARYING_FIELDS}


# The plan


def test_trials_are_jobs_of_their_own_before_the_cell_that_chooses() -> None:
    made = planned((CHOOSER,), (Grayscale(),))
    assert [trial.cell.chain for trial in CELL.trials] == [(NoBreaker(),), (Grayscale(),), (Jpeg(quality=30),)]
    assert len(made.trials) == 2 * 3, "of the noise and of the clean set"
    places = {job.key: place for place, job in enumerate(made.jobs)}
    assert len(places) == len(made.jobs)
    assert all(places[need.key] < places[job.key] for job in made.jobs for need in job.needs)
    assert not under(made, (Grayscale(),)).trials


def test_a_trial_is_known_by_its_cell_and_share_and_shared_by_all_that_choose() -> None:
    trial = CELL.trials[0]
    other = under(planned((replace(CHOOSER, of=(NoBreaker(), Jpeg())),)), (replace(CHOOSER, of=(NoBreaker(), Jpeg())),))
    assert other.trials[0].key == trial.key
    keys = {trial.key, replace(trial, held_out=0.5).key, trial.cell.key, CELL.key, other.key, other.trials[1].key}
    assert len(keys) == 6


def test_forecasts_count_every_trial_and_at_most_the_dearest_chain() -> None:
    chooser = BestOf(of=(NoBreaker(), AdvLinf(steps=3)))
    cell = under(planned((chooser,)), (chooser,))
    plain = RECIPE.steps * RECIPE.batch
    assert [trial.passes() for trial in cell.trials] == [{VICTIM: plain}, {VICTIM: 4 * plain}]
    assert cell.passes() == {VICTIM: 4 * plain}


def test_a_dry_run_lists_the_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["run", str(TINY), "--noise", "em", "--breaker", "best-of:of=none/jpeg", "--dry-run"]
    output = CliRunner().invoke(main, words, catch_exceptions=False).output
    assert "trial of em / none on smallcnn " in output
    assert "trial of em / jpeg on smallcnn " in output
    assert "2 noises, 4 trials and 4 cells; 10 of 10 jobs to do" in output


# What decides


def test_the_draw_is_one_for_all_and_every_image_is_on_one_side() -> None:
    labels = torch.arange(40)
    images = labels.to(torch.uint8).view(-1, 1, 1, 1).expand(40, 3, 2, 2)

    def sides(images: Tensor = images, share: float = 0.25, seed: int = 0) -> list[list[int]]:
        both = split_held_out(Split(images, labels), share, seed)
        assert all(len(side.images) == len(side.labels) for side in both)
        return [side.labels.tolist() for side in both]

    here, there = sides()
    assert (len(here), len(there)) == (30, 10)
    assert sorted(here + there) == labels.tolist()
    assert sides(255 - images) == [here, there]
    assert sides(seed=1)[1] != there != sides(share=0.3)[1][:10]
    side, rest = split_held_out(Split(images, labels), 0.25, 0)
    assert side.images[:, 0, 0, 0].tolist() == here
    assert rest.images[:, 0, 0, 0].tolist() == there


@pytest.mark.parametrize(("count", "share"), [(4, 0.1), (4, 0.9), (1, 0.5)])
def test_both_sides_need_an_image(count: int, share: float) -> None:
    with pytest.raises(UserError, match="leave one side empty"):
        split_held_out(Split(torch.zeros(count, 3, 2, 2), torch.zeros(count)), share, 0)


def test_a_trial_is_plain_work_on_a_part_of_the_released_images_scored_on_the_rest_as_it_is(done: Workspace) -> None:
    """Each score again, with the parts taken by hand: filtered training images, unfiltered held-out ones."""
    seed, released = CELL.protect.seed, released_by(done.store, CELL.protect)
    labels = DIGITS.load(done.store.data).train.labels
    count = len(labels)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(derive_seed(seed, "held-out", "0.25")))
    held = order < round(0.25 * count)
    found = record(CELL, done).trials
    assert set(found) == {"none@1", "grayscale@1", "jpeg@1:quality=30"}
    for trial in CELL.trials:
        images = apply_filters(trial.cell.chain, released[~held], labels[~held], derive_seed(seed, "filter"))
        chain, role = chain_text(trial.cell.chain), derive_seed(seed, "train")
        outcome = train_network(
            build_network(VICTIM, (3, 8, 8), 10, "fp32", CPU, role),
            Split(images, labels[~held]),
            lambda: Split(released[held], labels[held]),
            classes=10,
            recipe=RECIPE,
            chain=trial.cell.chain,
            augment=DIGITS.augment,
            progress=StoredProgress(done.store, f"again {chain}", role, silent, 60),
            seed=role,
        )
        assert found[chain] == outcome.curve[-1][1], chain


def test_the_best_is_taken_and_the_first_of_equals() -> None:
    def best(*found: float) -> int:
        return best_trial([{"accuracy": one} for one in found])

    assert [best(0.2, 0.9, 0.5), best(0.9, 0.9), best(0.0, 0.0, 0.1)] == [1, 0, 2]


def test_the_record_is_that_of_the_chosen_chain_and_says_what_it_cost(done: Workspace) -> None:
    found = record(CELL, done)
    assert found.trials[found.chosen] == max(found.trials.values())
    (trial,) = [one for one in CELL.trials if chain_text(one.cell.chain) == found.chosen]
    own = record(trial.cell, done)
    other = {"key", "breaker", "parameters", "chosen", "trials"}
    assert {name: value for name, value in numbers(found).items() if name not in other} == {
        name: value for name, value in numbers(own).items() if name not in other
    }
    assert (own.chosen, own.trials) == ("", {})
    assert found.key == CELL.key
    assert found.breaker == "", "a board gives the label"
    files = [done.store.find(one.key) for one in CELL.trials]
    spent = [json.loads(one["facts.json"].read_bytes())["seconds"] for one in files if one]
    assert found.train_seconds == pytest.approx(own.train_seconds + sum(spent))


def test_no_trial_asks_for_test_images(done: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(files: Any, name: str) -> Split:
        raise AssertionError(name)

    monkeypatch.setattr(cell, "load_split", refuse)
    place = Workspace(Store(tmp_path), CPU)
    for trial in CELL.trials:
        run_job(trial, place, silent)
    with pytest.raises(AssertionError, match="test"):
        run_job(CELL, place, silent)


# Resume, and where it is done


@pytest.mark.parametrize("kills", [(1, 7, 12 + 5, 3 * 12 + 9)])
def test_killed_in_a_trial_or_at_the_end_it_goes_on_to_the_same_record(
    kills: tuple[int, ...], done: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell, "StoredProgress", Prompt)
    place = Workspace(Store(tmp_path), CPU, every=0)
    run_job(CELL.protect, place, silent)
    steps: list[int] = []
    for most in kills:

        def report(step: int, count: int, loss: float | None, most: int = most) -> None:
            steps.append(step)
            if step < count and len(set(steps)) + RECIPE.steps * finished(place) > most:
                raise Killed

        with pytest.raises(Killed):
            run_job(CELL, place, report)
        steps.clear()
    run_job(CELL, place, silent)
    assert numbers(record(CELL, place)) == numbers(record(CELL, done))


def finished(place: Workspace) -> int:
    return sum(place.store.find(one.key) is not None for one in CELL.trials)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(workers: int, done: Workspace, tmp_path: Path) -> None:
    witness = Witness()
    queue, made = JobQueue(witness), planned((CHOOSER,))
    run_locally(made, queue, tmp_path, device="cpu", workers=workers, threads=1, every=60)
    assert not queue.failures
    assert {job.key for job in made.trials} <= {key for event, key in witness.events if event == "end"}
    assert numbers(queue.results[CELL.key]) == numbers(record(CELL, done))


# On record


def test_records_of_breakers_that_choose_nothing_keep_their_bytes() -> None:
    for path in sorted((ROOT / "leaderboards").glob("*/results.jsonl")):
        for line in path.read_text().splitlines():
            assert parse_result(line).line() == line
    assert '"chosen"' not in parse_result(line).line()


def test_what_was_chosen_survives_its_line(done: Workspace) -> None:
    found = record(CELL, done)
    assert parse_result(found.line()) == found
    assert json.loads(found.line())["trials"] == found.trials


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chosen": "jpeg:quality=9"}, "which does not have the highest accuracy"),
        ({"chosen": "", "trials": {"none": 0.5}}, "chosen is '', which does not have the highest accuracy"),
        ({"trials": {}}, "does not have the highest accuracy of {}"),
        ({"trials": {"none": 2}}, "Expected `float` <= 1.0 - at `$.trials[...]`"),
        ({"trials": {"none": True}}, "Expected `float`, got `bool` - at `$.trials[...]`"),
        ({"trials": [["none", 0.5]]}, "Expected `object`, got `array` - at `$.trials`"),
        ({"chosen": 3}, "Expected `str`, got `int` - at `$.chosen`"),
    ],
)
def test_a_record_that_contradicts_its_choice_is_refused(
    changes: dict[str, Any], message: str, done: Workspace
) -> None:
    table = {**json.loads(record(CELL, done).line()), **changes}
    with pytest.raises(UserError, match=re.escape(message)):
        parse_result(json.dumps(table))


def test_the_board_tells_what_was_chosen_by_the_suites_names(done: Workspace) -> None:
    usual = replace(read_suite(str(TINY)), defaults={"breaker": {"jpeg": {"quality": 30}}})
    found = label_result(replace(selected((CHOOSER,)), suite=usual), CELL, record(CELL, done))
    assert set(found.trials) == {"none", "grayscale", "jpeg"}
    assert found.chosen in found.trials
    (board,) = rank_results(usual, [found, structs.replace(found, key="x", seed=1)])
    table = breaker_table(board)[1]
    assert any(f"chose {found.chosen} (2)" in row[-1] for row in table)
