"""Our accuracies beside the published ones: cells are matched by name, and claims are checked by comparisons."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner
from msgspec import structs

from tests.board.test_tables import make_result
from uebench import UserError
from uebench.board.published import (
    comparison_tables,
    doubted_cells,
    join_published,
    judge_claim,
    judge_claims,
    measured_cells,
    read_published,
)
from uebench.cli.main import main
from uebench.components.spec import component_label
from uebench.planning.selection import resolve_recipe
from uebench.planning.suite import Claim
from uebench.planning.suite_file import read_suite
from uebench.storage.result import Result
from uebench.storage.results_file import write_results

TABLE4 = read_suite("rem-table4")
RECIPE = component_label(resolve_recipe(TABLE4))


def result(noise: str, breaker: str, seed: int, percent: float, **other: Any) -> Result:
    """Return a result of the suite on CIFAR-10, its accuracy in percent."""
    labels = {"dataset": "cifar10", "target": "resnet18", "recipe": RECIPE, "suite": "rem-table4"}
    demo_result = make_result("rem", "none", seed, percent / 100, **other)
    key = f"{noise}/{breaker}/{seed}/{other}"
    return structs.replace(demo_result, **{**labels, "key": key, "noise": noise, "breaker": breaker, **other})


def joined_cells(results: list[Result]) -> pd.DataFrame:
    """Return the published cells of the suite with these results."""
    published = read_published(TABLE4)
    assert published is not None
    return join_published(published, measured_cells(TABLE4, results))


def row(table: pd.DataFrame, noise: str, breaker: str) -> dict[str, Any]:
    """Return the only row of a noise and breaker on CIFAR-10."""
    rows = table[(table.dataset == "cifar10") & (table.noise == noise) & (table.breaker == breaker)]
    assert len(rows) == 1
    return dict(rows.iloc[0])


def test_cells_are_matched_by_name_and_averaged_over_seeds() -> None:
    table = joined_cells([result("rem", "adv-linf", seed, 40 + 2 * seed) for seed in range(3)])
    rem = row(table, "rem", "adv-linf")
    assert (rem["ours"], rem["deviation"], rem["seeds"]) == (pytest.approx(42), pytest.approx(2), 3)
    assert rem["difference"] == pytest.approx(42 - rem["percent"])
    assert len(table) == 30
    assert table["ours"].notna().sum() == 1, "a cell that was not run stays empty"


@pytest.mark.parametrize(
    "other", [{"recipe": "sgd:steps=10"}, {"protected": 0.2}, {"kind": "clean-only"}, {"target": "vgg16"}]
)
def test_another_recipe_share_or_network_is_another_cell(other: dict[str, Any]) -> None:
    assert joined_cells([result("rem", "adv-linf", 0, 40, **other)])["ours"].isna().all()


CLAIM = Claim("low below high", lower=["rem"], higher=["rem:eot=false"], breakers=["adv-linf", "none"])


def test_each_pair_of_a_claim_holds_fails_or_misses_a_number() -> None:
    results = [
        result("rem", "adv-linf", 0, 40),
        result("rem:eot=false", "adv-linf", 0, 41),
        result("rem", "none", 0, 30),
        result("rem:eot=false", "none", 0, 30),
    ]
    verdict = judge_claim(CLAIM, joined_cells(results), "ours")
    assert (verdict.holds, verdict.missing) == (1, 2), "CIFAR-100 has no numbers"
    assert verdict.fails == ["cifar10 / resnet18 / none: rem 30.00, rem:eot=false 30.00"], "equal is not below"
    assert str(verdict) == "fails (1 of 2, 2 missing)"
    assert str(judge_claim(CLAIM, joined_cells(results[:2]), "ours")) == "holds (1 of 1, 3 missing)"
    assert str(judge_claim(CLAIM, joined_cells([]), "ours")) == "no comparison possible"


def test_a_claim_without_breakers_is_about_all_of_them() -> None:
    published = read_published(TABLE4)
    assert published is not None
    verdict = judge_claim(replace(CLAIM, breakers=()), published, "percent")
    assert verdict.holds + len(verdict.fails) == 6
    assert verdict.missing == 0


def test_published_numbers_confirm_the_main_claim_of_their_paper() -> None:
    suite = read_suite("rem-table1")
    verdicts = judge_claims(suite, read_published(suite), measured_cells(suite, []))
    assert verdicts[0]["published"].startswith("holds (27 of 27")
    assert verdicts[0]["ours"] == "no comparison possible"


def run(tmp_path: Path, *words: str) -> str:
    """Return the output of `uebench compare` for a board with one cell."""
    path = tmp_path / "rem-table4" / "results.jsonl"
    results = [result("rem", "adv-linf", seed, 40 + seed) for seed in range(3)]
    write_results(path, {record.key: record for record in results})
    done = CliRunner().invoke(main, ["compare", "rem-table4", "--boards", str(tmp_path), *words])
    assert done.exit_code == 0, done.output
    return done.output


def test_the_command_prints_every_format(tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(run(tmp_path, "--format", "csv"))))
    assert len(rows) == 30
    assert [cell["ours"] for cell in rows if cell["ours"]] == ["41.00"]
    markdown = run(tmp_path, "--format", "markdown")
    assert "cifar10, resnet18, all protected: published / ours, in percent" in markdown
    assert re.search(r"^\| rem \| .* / 41\.00 ± 1\.00 \|$", markdown, re.MULTILINE)
    latex = run(tmp_path, "--format", "latex")
    assert latex.count(r"\begin{tabular}") == 3, "two data sets and the claims"
    assert r"adv\_radius" in latex
    table = run(tmp_path)
    assert "published / ours, in percent" in table
    assert "With the expectation REM protects better than without" in table


def test_a_doubtful_published_number_is_marked_and_explained() -> None:
    cells = joined_cells([])
    texts = [text for _, rows in comparison_tables(cells).values() for row in rows for text in row]
    doubtful = [cell for cell in cells.to_dict("records") if cell["doubt"]]
    assert doubtful
    assert sum("*" in text for text in texts) == len(doubtful)
    assert all(f"{cell['percent']:.2f}* / –" in texts for cell in doubtful)
    assert all(any(cell["doubt"] in line for line in doubted_cells(cells)) for cell in doubtful)


@pytest.mark.parametrize(
    ("name", "titles", "columns"),
    [
        (
            "rem-table1",
            ["cifar10, resnet18, all protected"],
            ["none", *(f"adv-linf:radius={part}/255" for part in (1, 2))],
        ),
        ("rem-table2", ["cifar10, adv-linf:radius=2/255, resnet18"], ["all protected", "20% mixed", "20% clean-only"]),
        ("rem-table3", ["cifar10, adv-linf, all protected"], ["vgg16", "resnet18", "resnet50", "densenet121"]),
    ],
)
def test_tables_have_the_papers_shape(name: str, titles: list[str], columns: list[str]) -> None:
    suite = read_suite(name)
    published = read_published(suite)
    assert published is not None
    tables = comparison_tables(join_published(published, measured_cells(suite, [])))
    assert list(tables)[:1] == titles
    head, rows = tables[titles[0]]
    assert head[: len(columns) + 1] == ["noise", *columns]
    assert [row[0] for row in rows][:2] == ["none", "em-rem"]
    shown = sum(text.endswith(" / –") for _, rows in tables.values() for row in rows for text in row)
    assert shown == len(published), "each published number is shown once"


def test_a_suite_without_published_numbers_is_refused_unless_it_has_claims() -> None:
    with pytest.raises(UserError, match="suite demo has no published numbers"):
        read_published(read_suite("demo"))
    assert read_published(read_suite("sem-cifar10")) is None
