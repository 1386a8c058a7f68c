"""How alike two recipes order noises: Kendall's tau by its definition, and the pages that show it."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from msgspec import structs

from tests.board.test_tables import DEMO, make_result
from uebench import UserError
from uebench.board.formats import markdown_table
from uebench.board.publish import insert_tables, publish_board
from uebench.board.rank_agreement import RESIDUAL, RankAgreement, rank_agreements
from uebench.board.ranking import rank_results
from uebench.board.tables import recipe_table
from uebench.site import build
from uebench.storage.result import Result
from uebench.storage.results_file import write_results

FIRST = {"em": (0.1, 0.9), "rem": (0.2, 0.5), "sem": (0.3, 0.6), "tap": (0.4, 0.7), "ntga": (0.5, 0.4)}
SECOND = {"em": (0.2, 0.7), "rem": (0.1, 0.4), "sem": (0.3, 0.6), "tap": (0.3, 0.6), "ntga": (0.6, 0.8)}
"""Accuracies after plain training and under attack; the second has ties."""


def results(accuracies: dict[str, tuple[float, float]], steps: int, seconds: float, **other: object) -> list[Result]:
    """Return results by a recipe with this number of steps: three seeds, the clean set above all noises."""
    fields = {"recipe": f"sgd@1:steps={steps}", "train_seconds": seconds, **other}
    with_canonical_recipe = [
        make_result(noise, breaker, seed, accuracy + 0.001 * seed, **fields)
        for noise, pair in {"none": (0.98, 0.95), **accuracies}.items()
        for breaker, accuracy in zip(("none", "adv-linf"), pair, strict=True)
        for seed in range(3)
    ]
    return [structs.replace(result, recipe=f"sgd:steps={steps}") for result in with_canonical_recipe]


def tau_by_definition(left: list[float], right: list[float]) -> float:
    """Return tau-b: pairs in the same order minus pairs in reversed order, over the pairs without ties."""
    pairs = list(combinations(range(len(left)), 2))
    signs = [[(values[a] > values[b]) - (values[a] < values[b]) for a, b in pairs] for values in (left, right)]
    difference = sum(a * b for a, b in zip(*signs, strict=True))
    return float(difference / (sum(map(abs, signs[0])) * sum(map(abs, signs[1]))) ** 0.5)


def agreements_of_recipes(records: list[Result]) -> list[RankAgreement]:
    """Return the agreements of two different recipes."""
    agreements = rank_agreements(rank_results(DEMO, records))
    return [agreement for agreement in agreements if agreement.recipes[0] != agreement.recipes[1]]


def self_agreements(records: list[Result]) -> dict[str, RankAgreement]:
    """Return the agreement of each recipe with itself, by plain training alone."""
    agreements = rank_agreements(rank_results(replace(DEMO, required_breakers=["none"]), records))
    return {
        agreement.recipes[0]: agreement
        for agreement in agreements
        if agreement.recipes[0] == agreement.recipes[1] and agreement.order == "none"
    }


def test_tau_follows_its_definition_for_every_order() -> None:
    residual, plain, attacked = agreements_of_recipes([*results(FIRST, 400, 12.0), *results(SECOND, 40, 2.0)])
    assert [agreement.order for agreement in (residual, plain, attacked)] == [RESIDUAL, "none", "adv-linf"]
    for index, agreement in enumerate((plain, attacked)):
        left, right = ([accuracies[noise][index] for noise in FIRST] for accuracies in (FIRST, SECOND))
        assert agreement.tau == pytest.approx(tau_by_definition(left, right))
        assert agreement.tau not in (-1, 0, 1)
        assert (agreement.noises, agreement.seconds) == (5, (2.0, 12.0)), "the clean set does not count"
        assert agreement.recipes == ("sgd:steps=40", "sgd:steps=400")
    left, right = ([0.98 - max(pair) for pair in accuracies.values()] for accuracies in (FIRST, SECOND))
    assert residual.tau == pytest.approx(tau_by_definition(left, right))
    assert residual.seconds == (None, None)


def test_equal_and_reversed_orders_and_ties_only() -> None:
    reversed_order = {noise: (1 - plain, 1 - attacked) for noise, (plain, attacked) in FIRST.items()}
    ties_only = dict.fromkeys(FIRST, (0.5, 0.5))
    for other, expected in ((FIRST, 1), (reversed_order, -1), (ties_only, None)):
        taus = [
            agreement.tau for agreement in agreements_of_recipes([*results(FIRST, 400, 1.0), *results(other, 40, 1.0)])
        ]
        assert taus[1:] == [pytest.approx(expected)] * 2


def test_a_recipe_is_compared_with_itself_seed_by_seed() -> None:
    by_seed = [[0.1, 0.2, 0.3, 0.4], [0.2, 0.1, 0.3, 0.4], [0.4, 0.3, 0.2, 0.2]]
    records = [
        structs.replace(make_result(noise, "none", seed, accuracy, recipe="sgd@1:steps=40"), recipe="sgd:steps=40")
        for seed, accuracies in enumerate(by_seed)
        for noise, accuracy in zip(("none", "em", "rem", "sem", "tap"), [0.9, *accuracies], strict=True)
    ]
    assert not self_agreements(records), "a single recipe is not compared with itself"
    agreement = self_agreements([*records, *results(FIRST, 400, 1.0)])["sgd:steps=40"]
    assert agreement.noises == 4
    assert agreement.tau == pytest.approx(sum(tau_by_definition(*pair) for pair in combinations(by_seed, 2)) / 3)
    one_seed = [record for record in records if record.seed == 1]
    assert list(self_agreements([*one_seed, *results(FIRST, 400, 1.0)])) == ["sgd:steps=400"]


def test_only_boards_that_differ_in_nothing_but_their_recipe_are_compared() -> None:
    slow = results(FIRST, 400, 1.0)
    assert not agreements_of_recipes(slow)
    assert not agreements_of_recipes([*slow, *results(FIRST, 40, 1.0, kind="clean-only", protected=0.5)])
    same_name = [structs.replace(result, recipe="sgd:steps=400") for result in results(FIRST, 40, 1.0)]
    assert not agreements_of_recipes([*slow, *same_name]), "the recipes have one name"
    only_plain = replace(DEMO, required_breakers=["none"])
    plain = [result for result in [*slow, *results(SECOND, 40, 1.0)] if result.breaker == "none"]
    agreements = rank_agreements(rank_results(only_plain, plain))
    assert [agreement.order for agreement in agreements] == ["none"] * 3, "also each recipe with itself"
    two_noises = {noise: FIRST[noise] for noise in ("em", "rem")}
    assert not agreements_of_recipes([*slow, *results(two_noises, 40, 1.0)]), "two noises are too few"
    assert len(agreements_of_recipes([*slow, *results(FIRST, 40, 1.0), *results(FIRST, 4, 1.0)])) == 3 * 3


def test_the_table_is_on_the_page_of_the_board_on_the_site_and_in_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [*results(FIRST, 400, 12.0), *results(SECOND, 40, 2.0)]
    write_results(tmp_path / "demo" / "results.jsonl", {result.key: result for result in records})
    boards = rank_results(DEMO, records)
    line, *_, last = markdown_table(*recipe_table(boards)).splitlines()[3:]
    assert line.startswith("| accuracy under none | sgd:steps=40 | sgd:steps=400 | digits | 5 |")
    assert line.endswith("| 2 / 12 |")
    assert last == "| accuracy under adv-linf | sgd:steps=400 | itself, another seed | digits | 5 | 1.00 | 12 / 12 |"
    publish_board(tmp_path / "demo", DEMO, boards)
    assert line in (tmp_path / "demo" / "README.md").read_text()
    document = tmp_path / "document.md"
    document.write_text("before\n<!-- recipes: demo -->\nold\n<!-- end -->\nafter\n")
    insert_tables(document, DEMO, boards)
    text = document.read_text()
    assert line in text
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    monkeypatch.setattr(build, "read_suite", lambda name: DEMO)
    assert '<section aria-labelledby="recipes">' in build.build_site(tmp_path, ["demo"])["demo/index.html"].decode()
    publish_board(tmp_path / "demo", DEMO, rank_results(DEMO, records[: len(records) // 2]))
    assert "## Recipes" not in (tmp_path / "demo" / "README.md").read_text()
    document.write_text("none\n")
    with pytest.raises(UserError, match="has no block"):
        insert_tables(document, DEMO, boards)
