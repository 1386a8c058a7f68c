"""Ranks and tables from constructed results whose right answer is known."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from tests.conftest import TINY
from uebench import UserError
from uebench.board.columns import breaker_frame, noise_frame
from uebench.board.formats import latex_table
from uebench.board.groups import budget_class
from uebench.board.publish import GENERATED_FILES, insert_tables, publish_board
from uebench.board.ranking import Board, rank_results
from uebench.board.tables import breaker_matrix, noise_table
from uebench.components.registry import registry
from uebench.components.spec import canonical_text
from uebench.planning.suite import Suite
from uebench.planning.suite_file import read_suite
from uebench.storage.result import Result, parse_result
from uebench.storage.results_file import merge_results, read_results, write_results

DEMO = replace(read_suite("demo"), required_breakers=["none", "adv-linf"])
"""The demo suite with only two required breakers."""


def text(kind: str, name: str) -> str:
    """Return the canonical text of a component of the demo suite."""
    return canonical_text(registry().build(kind, name, DEMO.defaults))


def make_result(noise: str, breaker: str, seed: int, accuracy: float, **other: Any) -> Result:
    """Return a result of the demo suite; `other` replaces any of its fields."""
    linf = 0.0 if noise == "none" else 32 / 255
    values = {
        "key": f"{noise}-{breaker}-{seed}-{other.get('recipe', '')}",
        "suite": "demo",
        "dataset": "digits",
        "noise": noise,
        "breaker": breaker,
        "target": "smallcnn",
        "parameters": {
            "content": "",
            "dataset": "digits@1",
            "noise": text("noise", noise),
            "breaker": text("breaker", breaker),
            "target": text("target", "smallcnn"),
            "recipe": other.get("recipe", "sgd@1"),
        },
        "protected": 1.0,
        "kind": "mixed",
        "seed": seed,
        "recipe": "sgd",
        "test_accuracy": accuracy,
        "train_accuracy": accuracy,
        "best_test_accuracy": accuracy,
        "curve": [],
        "noise_linf": linf,
        "noise_l2": 1.0,
        "psnr": 20.0,
        "ssim": 0.9,
        "noise_seconds": 1.0,
        "train_seconds": 2.0,
        "peak_bytes": None,
        "flags": [],
        "made_with": {"device": "x"},
        "finished": "2026-01-01T00:00:00+00:00",
    }
    return Result(**{**values, **other})  # type: ignore[arg-type]


def board(results: list[Result], suite: Suite = DEMO) -> Board:
    """Return the only board of these results."""
    (demo_board,) = rank_results(suite, results)
    return demo_board


def row(demo_board: Board, noise: str) -> Mapping[str, Any]:
    """Return a noise's row of the table in files, with None for unknown values."""
    table = noise_frame(demo_board).set_index("noise").astype(object)
    return dict(table.where(table.notna(), None).loc[noise])


def complete_results(seeds: int = 3) -> list[Result]:
    """Return the results of a complete board: rem protects best, em hardly protects under attack."""
    accuracies = {"none": (0.98, 0.90), "em": (0.10, 0.88), "rem": (0.20, 0.50), "sem": (0.30, 0.60)}
    return [
        make_result(noise, breaker, seed, accuracy + 0.01 * seed)
        for noise, pair in accuracies.items()
        for breaker, accuracy in zip(("none", "adv-linf"), pair, strict=True)
        for seed in range(seeds)
    ]


def test_noises_rank_by_residual_protection() -> None:
    demo_board = board(complete_results())
    rows = noise_frame(demo_board)[noise_frame(demo_board)["status"] == "ranked"]
    assert list(rows["noise"]) == ["rem", "sem", "em"]
    assert list(rows["rank"]) == [1, 2, 3]
    rem = row(demo_board, "rem")
    assert rem["residual_protection"] == pytest.approx(0.98 - 0.50)
    assert rem["same_breaker_gap"] == pytest.approx(min(0.98 - 0.20, 0.90 - 0.50))
    assert rem["worst_breaker"] == "adv-linf"
    assert rem["accuracy adv-linf"] == pytest.approx(0.51)
    assert rem["deviation adv-linf"] == pytest.approx(0.01)
    assert row(demo_board, "none")["status"] == "reference"
    assert row(demo_board, "none")["rank"] is None


def test_means_come_before_the_worst_breaker() -> None:
    """The worst breaker differs between seeds: the mean of the worst would be 0.6, the worst of the means is 0.4."""
    pairs = {0: (0.6, 0.2), 1: (0.2, 0.6), 2: (0.4, 0.4)}
    results = [result for result in complete_results() if result.noise == "none"]
    results += [
        make_result("em", breaker, seed, pair[breaker != "none"])
        for seed, pair in pairs.items()
        for breaker in ("none", "adv-linf")
    ]
    assert row(board(results), "em")["residual_protection"] == pytest.approx(0.99 - 0.4)


def test_a_breaker_that_ruins_clean_images_does_not_count_for_the_gap() -> None:
    results = [result for result in complete_results() if result.noise in ("em",)]
    results += [
        make_result("none", breaker, seed, accuracy)
        for seed in range(3)
        for breaker, accuracy in (("none", 0.98), ("adv-linf", 0.30))
    ]
    em = row(board(results), "em")
    assert em["same_breaker_gap"] == pytest.approx(0.98 - 0.11)
    assert em["residual_protection"] == pytest.approx(0.98 - 0.89)


def test_fewer_than_three_seeds_are_provisional() -> None:
    assert row(board(complete_results(2)), "rem")["status"] == "provisional"
    assert row(board(complete_results(1)), "rem")["deviation adv-linf"] is None


def test_an_entry_without_a_required_cell_is_unranked_and_names_the_cell() -> None:
    results = [result for result in complete_results() if (result.noise, result.breaker) != ("rem", "adv-linf")]
    rem = row(board(results), "rem")
    assert rem["status"] == "unranked"
    assert rem["rank"] is None
    assert rem["residual_protection"] is None
    assert rem["lacks"] == "rem / adv-linf / smallcnn"
    assert row(board(results), "sem")["rank"] == 1


def test_without_the_clean_reference_nothing_is_ranked() -> None:
    demo_board = board([result for result in complete_results() if result.noise != "none"])
    assert set(noise_frame(demo_board)["status"]) == {"unranked"}
    assert "none / adv-linf / smallcnn" in row(demo_board, "em")["lacks"]


def test_the_plain_clean_reference_is_needed_even_where_plain_training_is_not_required() -> None:
    suite = replace(DEMO, required_breakers=["adv-linf"])
    assert row(board(complete_results(), suite), "em")["residual_protection"] == pytest.approx(0.98 - 0.88)
    without_plain_clean = [
        result for result in complete_results() if (result.noise, result.breaker) != ("none", "none")
    ]
    assert row(board(without_plain_clean, suite), "em")["lacks"] == "none / none / smallcnn"


def test_only_seeds_that_all_required_cells_share_count() -> None:
    results = [
        result for result in complete_results() if (result.noise, result.breaker, result.seed) != ("rem", "adv-linf", 0)
    ]
    results += [make_result("rem", "none", 7, 0.99)]
    rem = row(board(results), "rem")
    assert rem["seeds"] == 2
    assert rem["residual_protection"] == pytest.approx((0.99 + 1.0) / 2 - (0.51 + 0.52) / 2)


def test_recipes_are_never_mixed() -> None:
    other = [
        make_result(result.noise, result.breaker, result.seed, 0.5, recipe="sgd@1:steps=9")
        for result in complete_results()
    ]
    assert len(rank_results(DEMO, complete_results() + other)) == 2


def test_breakers_rank_by_what_they_recover() -> None:
    table = breaker_frame(board(complete_results()))
    assert list(table["breaker"]) == ["adv-linf", "none"]
    assert list(table["recovered"]) == pytest.approx([0.01 + (0.88 + 0.50 + 0.60) / 3, 0.01 + (0.1 + 0.2 + 0.3) / 3])
    assert list(table["clean_accuracy"]) == pytest.approx([0.91, 0.99])


def test_a_breaker_without_every_ranked_noise_is_unranked() -> None:
    extra = [make_result("rem", "adv-linf:radius=8/255", seed, 0.99) for seed in range(3)]
    table = breaker_frame(board(complete_results() + extra)).set_index("breaker")
    assert table.loc["adv-linf:radius=8/255", "lacks"] == "em / smallcnn; sem / smallcnn"
    assert table["recovered"].isna().sum() == 1


@pytest.mark.parametrize(
    ("norm", "linf", "expected"),
    [
        ("linf", 8 / 255, "L-inf 8/255"),
        ("linf", 9 / 255, "L-inf 16/255"),
        ("linf", 32 / 255 + 1e-7, "L-inf 32/255"),
        ("linf", 0.2, "unbounded"),
        ("l2", 8 / 255, "L2"),
        ("l0", 1.0, "L0"),
        ("none", 1 / 255, "unbounded"),
    ],
)
def test_budget_classes_follow_from_the_norm_and_the_measured_change(norm: str, linf: float, expected: str) -> None:
    assert budget_class(norm, linf) == expected


def test_a_noise_of_another_norm_is_ranked_separately() -> None:
    results = complete_results() + [
        make_result("sc", breaker, seed, 0.97, noise_norm="l2") for breaker in ("none", "adv-linf") for seed in range(3)
    ]
    assert row(board(results), "sc")["rank"] == 1
    assert row(board(results), "sc")["budget"] == "L2"


def test_breakers_that_no_rank_needs_are_shown_in_parentheses_and_change_nothing() -> None:
    extra = "adv-linf:radius=8/255"
    demo_board = board(complete_results() + [make_result("rem", extra, seed, 0.99) for seed in range(3)])
    assert row(demo_board, "rem")[f"accuracy {extra}"] == pytest.approx(0.99)
    for name in ("residual_protection", "same_breaker_gap", "worst_breaker", "rank"):
        assert row(demo_board, "rem")[name] == row(board(complete_results()), "rem")[name]
    assert row(demo_board, "rem")["residual_best_known"] == pytest.approx(0.99 - 0.99)
    assert (row(demo_board, "rem")["best_known_breaker"], row(demo_board, "rem")["best_known_since"]) == (
        extra,
        "2026-01-01",
    )
    assert not any(extra in name for name in noise_table(demo_board)[0])
    head, rows = breaker_matrix(demo_board)
    column = head.index(f"({extra})")
    assert column > head.index("adv-linf")
    accuracies = {cells[1]: cells[column] for cells in rows}
    assert accuracies["rem"].startswith("99.0")
    assert accuracies["em"] == "–"


def test_a_breaker_that_no_rank_needs_may_have_fewer_seeds() -> None:
    extra = "adv-linf:radius=8/255"
    demo_board = board(
        complete_results()
        + [make_result("rem", extra, seed, 0.97 + 0.02 * seed) for seed in (0, 1)]
        + [make_result("em", extra, 1, 0.2)]
    )
    rem = row(demo_board, "rem")
    assert (rem["seeds"], rem[f"accuracy {extra}"]) == (3, pytest.approx(0.98))
    assert rem[f"deviation {extra}"] == pytest.approx(0.02 / 2**0.5)
    assert (rem["residual_best_known"], rem["best_known_breaker"]) == (pytest.approx(0.99 - 0.98), extra)
    head, rows = breaker_matrix(demo_board)
    accuracies = {cells[1]: cells[head.index(f"({extra})")] for cells in rows}
    assert (accuracies["rem"], accuracies["em"], accuracies["sem"]) == ("98.0 ± 1.4", "20.0", "–")


def test_a_record_without_a_norm_has_an_l_inf_noise() -> None:
    table = json.loads(complete_results()[0].line())
    assert table.pop("noise_norm") == "linf"
    assert parse_result(json.dumps(table)) == complete_results()[0]


def test_budget_classes_are_ranked_separately() -> None:
    results = complete_results()
    results += [
        make_result("em:radius=8/255", breaker, seed, 0.97, noise_linf=8 / 255)
        for breaker in ("none", "adv-linf")
        for seed in range(3)
    ]
    demo_board = board(results)
    assert row(demo_board, "em:radius=8/255")["rank"] == 1
    assert row(demo_board, "rem")["rank"] == 1


def test_a_record_written_as_a_line_and_read_is_unchanged() -> None:
    result = complete_results()[0]
    assert parse_result(result.line()) == result


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("test_accuracy", 1.5, "Expected `float` <= 1.0 - at `$.test_accuracy`"),
        ("test_accuracy", "high", "Expected `float`, got `str` - at `$.test_accuracy`"),
        ("seed", True, "Expected `int`, got `bool` - at `$.seed`"),
        ("noise", 3, "Expected `str`, got `int` - at `$.noise`"),
    ],
)
def test_a_record_with_a_wrong_value_is_refused(field: str, value: Any, expected: str) -> None:
    table = {**json.loads(complete_results()[0].line()), field: value}
    with pytest.raises(UserError, match=re.escape(expected)):
        parse_result(json.dumps(table))


def test_merging_adds_keeps_and_reports() -> None:
    old = {result.key: result for result in complete_results()[:2]}
    same = make_result("none", "none", 0, 0.98, train_seconds=9.0)
    other = make_result("none", "none", 1, 0.5)
    merged, conflicts = merge_results(old, [same, other, complete_results()[5]])
    assert len(merged) == 3
    assert merged[same.key].train_seconds == 2.0, "an equal run changes no line"
    assert merged[other.key].test_accuracy == pytest.approx(0.99)
    assert len(conflicts) == 1
    assert "none / none / smallcnn seed 1: 0.5000 here" in conflicts[0]
    assert "0.9900 on record" in conflicts[0]


def test_files_follow_from_the_record_alone_and_are_the_same_each_time(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    write_results(path, {result.key: result for result in complete_results()})
    written = []
    for folder in (tmp_path / "first", tmp_path / "second"):
        results = read_results(path)
        publish_board(folder, DEMO, rank_results(DEMO, reversed(list(results.values()))))
        written.append({file.name: file.read_bytes() for file in folder.iterdir()})
    assert written[0] == written[1]
    assert set(written[0]) == set(GENERATED_FILES)
    head = written[0]["noises.csv"].decode().splitlines()[0].split(",")
    assert {"rank", "rank_low", "rank_high", "residual_low", "residual_high", "same_breaker_gap"} <= set(head)
    line = r"| 1 | rem | 1 | 48.0 \[48.0, 48.0\] | 48.0 (adv-linf) | 40.0 | 21.0 ± 1.0 | 51.0 ± 1.0 | 3 |"
    assert line in written[0]["README.md"].decode()


def test_latex_shows_every_text_unchanged_in_its_cell() -> None:
    hostile = "\\input{x} a_b & 5 % #1 $y$ ^^5c~\n\nend \\\\"
    head, rule, line, *_ = latex_table(["rank", "in_percent"], [["1", hostile]]).splitlines()[2:]
    assert (head, rule) == (r"rank & in\_percent \\", r"\midrule")
    assert line.startswith(r"1 & \textbackslash input\{x\} a\_b \& 5 \% \#1 \$y\$ \textasciicircum \textasciicircum 5c")
    assert line.endswith(r"end \textbackslash \textbackslash  \\")


def test_the_latex_tables_follow_from_the_record(tmp_path: Path) -> None:
    other = [
        make_result(result.noise, result.breaker, result.seed, 0.5, recipe="sgd@1:steps=9")
        for result in complete_results()
    ]
    results = complete_results() + other
    publish_board(tmp_path, DEMO, rank_results(DEMO, [structs.replace(result, dataset="a\nb") for result in results]))
    text = (tmp_path / "noises.tex").read_text()
    assert [line for line in text.splitlines() if line.startswith("%")] == [
        "% a b, recipe sgd",
        "% a b, recipe sgd@1:steps=9",
    ]
    assert text.count(r"\begin{tabular}") == text.count(r"\bottomrule") == 2
    assert "1 & rem & 1 & 48.0 [48.0, 48.0] & 48.0 (adv-linf) & 40.0 & 21.0 ± 1.0 & 51.0 ± 1.0 & 3 & 32/255" in text


def test_the_table_goes_into_a_document(tmp_path: Path) -> None:
    document = tmp_path / "README.md"
    document.write_text("before\n<!-- board: demo -->\nold\n<!-- end -->\nafter\n")
    insert_tables(document, DEMO, rank_results(DEMO, complete_results()))
    text = document.read_text()
    assert text.startswith("before\n<!-- board: demo -->\n| rank | noise | rank set |")
    assert text.endswith("|\n<!-- end -->\nafter\n")
    with pytest.raises(UserError, match="has no block <!-- board: tiny -->"):
        insert_tables(document, read_suite(str(TINY)), [])
