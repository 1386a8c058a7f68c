"""How alike two recipes order noises: Kendall's tau counted by hand, and where it is shown."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from msgspec import structs

from tests.board.test_tables import DEMO, made
from uebench import UserError
from uebench.board.formats import markdown_table
from uebench.board.publish import insert_tables, publish_board
from uebench.board.rank_agreement import RESIDUAL, RankAgreement, rank_agreements
from uebench.board.ranking import rank_results
from uebench.board.tables import recipe_table
from uebench.site import build
from uebench.storage.result import Result
from uebench.storage.results_file import write_results

ONE = {"em": (0.1, 0.9), "rem": (0.2, 0.5), "sem": (0.3, 0.6), "tap": (0.4, 0.7), "ntga": (0.5, 0.4)}
OTHER = {"em": (0.2, 0.7), "rem": (0.1, 0.4), "sem": (0.3, 0.6), "tap": (0.3, 0.6), "ntga": (0.6, 0.8)}
"""Accuracies plainly and under attack; the second ties two of them."""


def results(accuracies: dict[str, tuple[float, float]], steps: int, seconds: float, **other: object) -> list[Result]:
    """Return a board by a recipe of so many steps, three seeds, the clean set above all noises."""
    names = {"recipe": f"sgd@1:steps={steps}", "train_seconds": seconds, **other}
    found = [
        made(noise, breaker, seed, accuracy + 0.001 * seed, **names)
        for noise, pair in {"none": (0.98, 0.95), **accuracies}.items()
        for breaker, accuracy in zip(("none", "adv-linf"), pair, strict=True)
        for seed in range(3)
    ]
    return [structs.replace(one, recipe=f"sgd:steps={steps}") for one in found]


def counted(left: list[float], right: list[float]) -> float:
    """Return tau-b by its definition: pairs in the same order less pairs in the other, over pairs that are no ties."""
    pairs = list(combinations(range(len(left)), 2))
    signs = [[(one[a] > one[b]) - (one[a] < one[b]) for a, b in pairs] for one in (left, right)]
    agreeing = sum(a * b for a, b in zip(*signs, strict=True))
    return float(agreeing / (sum(map(abs, signs[0])) * sum(map(abs, signs[1]))) ** 0.5)


def found(records: list[Result]) -> list[RankAgreement]:
    """Return the concordances of recipes that differ."""
    return [one for one in rank_agreements(rank_results(DEMO, records)) if one.recipes[0] != one.recipes[1]]


def itself(records: list[Result]) -> dict[str, RankAgreement]:
    """Return the concordance of each recipe with itself, by plain training alone."""
    every = rank_agreements(rank_results(replace(DEMO, required_breakers=["none"]), records))
    return {one.recipes[0]: one for one in every if one.recipes[0] == one.recipes[1] and one.order == "none"}


def test_tau_is_that_of_its_definition_for_every_order() -> None:
    residual, plain, attacked = found([*results(ONE, 400, 12.0), *results(OTHER, 40, 2.0)])
    assert [one.order for one in (residual, plain, attacked)] == [RESIDUAL, "none", "adv-linf"]
    for place, one in enumerate((plain, attacked)):
        left, right = ([accuracies[noise][place] for noise in ONE] for accuracies in (ONE, OTHER))
        assert one.tau == pytest.approx(counted(left, right))
        assert one.tau not in (-1, 0, 1)
        assert (one.noises, one.seconds) == (5, (2.0, 12.0)), "the clean set is no noise"
        assert one.recipes == ("sgd:steps=40", "sgd:steps=400")
    left, right = ([0.98 - max(pair) for pair in accuracies.values()] for accuracies in (ONE, OTHER))
    assert residual.tau == pytest.approx(counted(left, right))
    assert residual.seconds == (None, None)


def test_orders_that_are_the_same_reversed_or_none() -> None:
    turned = {noise: (1 - plain, 1 - attacked) for noise, (plain, attacked) in ONE.items()}
    flat = dict.fromkeys(ONE, (0.5, 0.5))
    for other, expected in ((ONE, 1), (turned, -1), (flat, None)):
        taus = [one.tau for one in found([*results(ONE, 400, 1.0), *results(other, 40, 1.0)])]
        assert taus[1:] == [pytest.approx(expected)] * 2


def test_a_recipe_is_held_against_itself_seed_by_seed() -> None:
    by_seed = [[0.1, 0.2, 0.3, 0.4], [0.2, 0.1, 0.3, 0.4], [0.4, 0.3, 0.2, 0.2]]
    records = [
        structs.replace(made(noise, "none", seed, accuracy, recipe="sgd@1:steps=40"), recipe="sgd:steps=40")
        for seed, accuracies in enumerate(by_seed)
        for noise, accuracy in zip(("none", "em", "rem", "sem", "tap"), [0.9, *accuracies], strict=True)
    ]
    assert not itself(records), "a recipe alone is compared with nothing"
    one = itself([*records, *results(ONE, 400, 1.0)])["sgd:steps=40"]
    assert one.noises == 4
    assert one.tau == pytest.approx(sum(counted(*pair) for pair in combinations(by_seed, 2)) / 3)
    single = [record for record in records if record.seed == 1]
    assert list(itself([*single, *results(ONE, 400, 1.0)])) == ["sgd:steps=400"]


def test_only_boards_that_differ_in_their_recipe_alone_are_compared() -> None:
    one = results(ONE, 400, 1.0)
    assert not found(one)
    assert not found([*one, *results(ONE, 40, 1.0, kind="clean-only", protected=0.5)])
    assert not found([*one, *(structs.replace(r, recipe="sgd:steps=400") for r in results(ONE, 40, 1.0))]), (
        "other content"
    )
    alone = replace(DEMO, required_breakers=["none"])
    plain = [r for r in [*one, *results(OTHER, 40, 1.0)] if r.breaker == "none"]
    assert [r.order for r in rank_agreements(rank_results(alone, plain))] == ["none"] * 3, (
        "either recipe with itself, too"
    )
    two = {noise: ONE[noise] for noise in ("em", "rem")}
    assert not found([*one, *results(two, 40, 1.0)]), "two noises are no order"
    assert len(found([*one, *results(ONE, 40, 1.0), *results(ONE, 4, 1.0)])) == 3 * 3


def test_the_table_stands_on_the_boards_page_on_the_site_and_in_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [*results(ONE, 400, 12.0), *results(OTHER, 40, 2.0)]
    write_results(tmp_path / "demo" / "results.jsonl", {one.key: one for one in records})
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
