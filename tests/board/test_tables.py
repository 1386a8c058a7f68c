"""Ranks and tables from results made up for the purpose, for which the right answer is known."""

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
"""The demo suite with two required breakers, which are enough to show how ranks are made."""


def text(kind: str, name: str) -> str:
    return canonical_text(registry().build(kind, name, DEMO.defaults))


def made(noise: str, breaker: str, seed: int, accuracy: float, **other: Any) -> Result:
    """Return a record of the demo suite with this accuracy."""
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


def board(results: list[Result], chosen: Suite = DEMO) -> Board:
    (found,) = rank_results(chosen, results)
    return found


def row(found: Board, noise: str) -> Mapping[str, Any]:
    table = noise_frame(found).set_index("noise").astype(object)
    return dict(table.where(table.notna(), None).loc[noise])


def full(seeds: int = 3) -> list[Result]:
    """Return a complete board: rem protects best, em not at all under attack."""
    accuracies = {"none": (0.98, 0.90), "em": (0.10, 0.88), "rem": (0.20, 0.50), "sem": (0.30, 0.60)}
    return [
        made(noise, breaker, seed, accuracy + 0.01 * seed)
        for noise, pair in accuracies.items()
        for breaker, accuracy in zip(("none", "adv-linf"), pair, strict=True)
        for seed in range(seeds)
    ]


def test_noises_rank_by_residual_protection() -> None:
    found = board(full())
    ranked = noise_frame(found)[noise_frame(found)["status"] == "ranked"]
    assert list(ranked["noise"]) == ["rem", "sem", "em"]
    assert list(ranked["rank"]) == [1, 2, 3]
    rem = row(found, "rem")
    assert rem["residual_protection"] == pytest.approx(0.98 - 0.50)
    assert rem["same_breaker_gap"] == pytest.approx(min(0.98 - 0.20, 0.90 - 0.50))
    assert rem["worst_breaker"] == "adv-linf"
    assert rem["accuracy adv-linf"] == pytest.approx(0.51)
    assert rem["deviation adv-linf"] == pytest.approx(0.01)
    assert row(found, "none")["status"] == "reference"
    assert row(found, "none")["rank"] is None


def test_means_come_before_the_worst_breaker() -> None:
    """Per seed the worst breaker differs; the mean of the worst would be 0.6, the worst of the means is 0.4."""
    pairs = {0: (0.6, 0.2), 1: (0.2, 0.6), 2: (0.4, 0.4)}
    results = [one for one in full() if one.noise == "none"]
    results += [made("em", b, s, pair[b != "none"]) for s, pair in pairs.items() for b in ("none", "adv-linf")]
    assert row(board(results), "em")["residual_protection"] == pytest.approx(0.99 - 0.4)


def test_a_breaker_that_ruins_clean_images_does_not_count_for_the_gap() -> None:
    results = [one for one in full() if one.noise in ("em",)]
    results += [made("none", b, s, a) for s in range(3) for b, a in (("none", 0.98), ("adv-linf", 0.30))]
    found = row(board(results), "em")
    assert found["same_breaker_gap"] == pytest.approx(0.98 - 0.11)
    assert found["residual_protection"] == pytest.approx(0.98 - 0.89)


def test_fewer_than_three_seeds_are_provisional() -> None:
    assert row(board(full(2)), "rem")["status"] == "provisional"
    assert row(board(full(1)), "rem")["deviation adv-linf"] is None


def test_an_entry_that_lacks_a_required_cell_is_unranked_and_says_what() -> None:
    results = [one for one in full() if (one.noise, one.breaker) != ("rem", "adv-linf")]
    found = row(board(results), "rem")
    assert found["status"] == "unranked"
    assert found["rank"] is None
    assert found["residual_protection"] is None
    assert found["lacks"] == "rem / adv-linf / smallcnn"
    assert row(board(results), "sem")["rank"] == 1


def test_without_the_clean_reference_nothing_is_ranked() -> None:
    found = board([one for one in full() if one.noise != "none"])
    assert set(noise_frame(found)["status"]) == {"unranked"}
    assert "none / adv-linf / smallcnn" in row(found, "em")["lacks"]


def test_the_plain_clean_reference_is_needed_even_where_plain_training_is_not_required() -> None:
    chosen = replace(DEMO, required_breakers=["adv-linf"])
    assert row(board(full(), chosen), "em")["residual_protection"] == pytest.approx(0.98 - 0.88)
    lacking = [one for one in full() if (one.noise, one.breaker) != ("none", "none")]
    assert row(board(lacking, chosen), "em")["lacks"] == "none / none / smallcnn"


def test_only_seeds_that_all_required_cells_share_count() -> None:
    results = [one for one in full() if (one.noise, one.breaker, one.seed) != ("rem", "adv-linf", 0)]
    results += [made("rem", "none", 7, 0.99)]
    found = row(board(results), "rem")
    assert found["seeds"] == 2
    assert found["residual_protection"] == pytest.approx((0.99 + 1.0) / 2 - (0.51 + 0.52) / 2)


def test_recipes_are_never_mixed() -> None:
    other = [made(one.noise, one.breaker, one.seed, 0.5, recipe="sgd@1:steps=9") for one in full()]
    assert len(rank_results(DEMO, full() + other)) == 2


def test_breakers_rank_by_what_they_recover() -> None:
    table = breaker_frame(board(full()))
    assert list(table["breaker"]) == ["adv-linf", "none"]
    assert list(table["recovered"]) == pytest.approx([0.01 + (0.88 + 0.50 + 0.60) / 3, 0.01 + (0.1 + 0.2 + 0.3) / 3])
    assert list(table["clean_accuracy"]) == pytest.approx([0.91, 0.99])


def test_a_breaker_without_every_ranked_noise_is_unranked() -> None:
    extra = [made("rem", "adv-linf:radius=8/255", seed, 0.99) for seed in range(3)]
    table = breaker_frame(board(full() + extra)).set_index("breaker")
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
def test_budget_classes_go_by_the_norm_and_by_what_was_measured(norm: str, linf: float, expected: str) -> None:
    assert budget_class(norm, linf) == expected


def test_a_noise_of_another_norm_is_ranked_apart() -> None:
    results = full() + [
        made("sc", breaker, seed, 0.97, noise_norm="l2") for breaker in ("none", "adv-linf") for seed in range(3)
    ]
    assert row(board(results), "sc")["rank"] == 1
    assert row(board(results), "sc")["budget"] == "L2"


def test_breakers_that_no_rank_needs_are_shown_in_parentheses_and_change_nothing() -> None:
    extra = "adv-linf:radius=8/255"
    found = board(full() + [made("rem", extra, seed, 0.99) for seed in range(3)])
    assert row(found, "rem")[f"accuracy {extra}"] == pytest.approx(0.99)
    for name in ("residual_protection", "same_breaker_gap", "worst_breaker", "rank"):
        assert row(found, "rem")[name] == row(board(full()), "rem")[name]
    assert row(found, "rem")["residual_best_known"] == pytest.approx(0.99 - 0.99)
    assert (row(found, "rem")["best_known_breaker"], row(found, "rem")["best_known_since"]) == (extra, "2026-01-01")
    assert not any(extra in name for name in noise_table(found)[0])
    head, rows = breaker_matrix(found)
    place = head.index(f"({extra})")
    assert place > head.index("adv-linf")
    cells = {one[1]: one[place] for one in rows}
    assert cells["rem"].startswith("99.0")
    assert cells["em"] == "–"


def test_a_breaker_that_no_rank_needs_may_have_fewer_seeds() -> None:
    extra = "adv-linf:radius=8/255"
    found = board(
        full() + [made("rem", extra, seed, 0.97 + 0.02 * seed) for seed in (0, 1)] + [made("em", extra, 1, 0.2)]
    )
    own = row(found, "rem")
    assert (own["seeds"], own[f"accuracy {extra}"]) == (3, pytest.approx(0.98))
    assert own[f"deviation {extra}"] == pytest.approx(0.02 / 2**0.5)
    assert (own["residual_best_known"], own["best_known_breaker"]) == (pytest.approx(0.99 - 0.98), extra)
    head, rows = breaker_matrix(found)
    cells = {one[1]: one[head.index(f"({extra})")] for one in rows}
    assert (cells["rem"], cells["em"], cells["sem"]) == ("98.0 ± 1.4", "20.0", "–")


def test_a_record_from_before_other_norms_is_of_an_l_inf_noise() -> None:
    table = json.loads(full()[0].line())
    assert table.pop("noise_norm") == "linf"
    assert parse_result(json.dumps(table)) == full()[0]


def test_budget_classes_are_ranked_apart() -> None:
    results = full()
    results += [made("em:radius=8/255", b, s, 0.97, noise_linf=8 / 255) for b in ("none", "adv-linf") for s in range(3)]
    found = board(results)
    assert row(found, "em:radius=8/255")["rank"] == 1
    assert row(found, "rem")["rank"] == 1


def test_records_survive_their_line() -> None:
    one = full()[0]
    assert parse_result(one.line()) == one


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
    table = {**json.loads(full()[0].line()), field: value}
    with pytest.raises(UserError, match=re.escape(expected)):
        parse_result(json.dumps(table))


def test_merging_adds_keeps_and_reports() -> None:
    old = {one.key: one for one in full()[:2]}
    same = made("none", "none", 0, 0.98, train_seconds=9.0)
    other = made("none", "none", 1, 0.5)
    merged, conflicts = merge_results(old, [same, other, full()[5]])
    assert len(merged) == 3
    assert merged[same.key].train_seconds == 2.0, "an equal run changes no line"
    assert merged[other.key].test_accuracy == pytest.approx(0.99)
    assert len(conflicts) == 1
    assert "none / none / smallcnn seed 1: 0.5000 here" in conflicts[0]
    assert "0.9900 on record" in conflicts[0]


def test_files_follow_from_the_record_alone_and_are_the_same_each_time(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    write_results(path, {one.key: one for one in full()})
    written = []
    for place in ("one", "two"):
        results = read_results(path)
        publish_board(tmp_path / place, DEMO, rank_results(DEMO, reversed(list(results.values()))))
        written.append({file.name: file.read_bytes() for file in (tmp_path / place).iterdir()})
    assert written[0] == written[1]
    assert set(written[0]) == set(GENERATED_FILES)
    head = written[0]["noises.csv"].decode().splitlines()[0].split(",")
    assert {"rank", "rank_low", "rank_high", "residual_low", "residual_high", "same_breaker_gap"} <= set(head)
    line = r"| 1 | rem | 1 | 48.0 \[48.0, 48.0\] | 48.0 (adv-linf) | 40.0 | 21.0 ± 1.0 | 51.0 ± 1.0 | 3 |"
    assert line in written[0]["README.md"].decode()


def test_latex_shows_every_text_as_it_is_and_in_its_cell() -> None:
    hostile = "\\input{x} a_b & 5 % #1 $y$ ^^5c~\n\nend \\\\"
    head, rule, line, *_ = latex_table(["rank", "in_percent"], [["1", hostile]]).splitlines()[2:]
    assert (head, rule) == (r"rank & in\_percent \\", r"\midrule")
    assert line.startswith(r"1 & \textbackslash input\{x\} a\_b \& 5 \% \#1 \$y\$ \textasciicircum \textasciicircum 5c")
    assert line.endswith(r"end \textbackslash \textbackslash  \\")


def test_the_latex_tables_follow_from_the_record(tmp_path: Path) -> None:
    results = full() + [made(one.noise, one.breaker, one.seed, 0.5, recipe="sgd@1:steps=9") for one in full()]
    publish_board(tmp_path, DEMO, rank_results(DEMO, [structs.replace(one, dataset="a\nb") for one in results]))
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
    insert_tables(document, DEMO, rank_results(DEMO, full()))
    text = document.read_text()
    assert text.startswith("before\n<!-- board: demo -->\n| rank | noise | rank set |")
    assert text.endswith("|\n<!-- end -->\nafter\n")
    with pytest.raises(UserError, match="has no block <!-- board: tiny -->"):
        insert_tables(document, read_suite(str(TINY)), [])
