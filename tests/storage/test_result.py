"""A record that is read is one from which every page can be built; any other is refused in one line."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.board.test_tables import DEMO
from tests.site.test_build import varied
from uebench import UserError
from uebench.board.curves import make_curves
from uebench.board.formats import csv_table
from uebench.board.plots import noise_styles
from uebench.board.publish import publish_board
from uebench.board.published import comparison_tables, measured_cells
from uebench.board.ranking import rank_results
from uebench.site.build import build_site
from uebench.storage.result import parse_result
from uebench.storage.results_file import read_results, write_results

LINES = [one.line() for one in varied() if one.seed == 0 and one.parameters["recipe"] == "sgd@1"]
RECORD = json.loads(LINES[0])
DELETED = object()
NUMBERS = st.integers(-3, 3) | st.floats() | st.sampled_from([2**31, 2**63, 10**30, 1e300, 1e-300, -0.0])
TEXTS = st.text(st.characters(exclude_categories=[]), max_size=6) | st.sampled_from(
    ["adv-linf@1:radius=", "a+b", "digits@1", "none@1", "(:)", "a@1:b=(c", "nan", "mixed", "clean-only", "l2", "../x"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=4,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield the path of everything inside a JSON value with what is there, and of a field that each table has not."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield (*path, key), one
        yield from places(one, (*path, key))
    if isinstance(value, dict):
        yield (*path, "another"), None


def changes(place: tuple[tuple[Any, ...], Any]) -> st.SearchStrategy[tuple[tuple[Any, ...], Any]]:
    """Return changes of a place: to what has the same type, to anything, to nothing."""
    path, old = place
    same = TEXTS if isinstance(old, str) else NUMBERS if isinstance(old, int | float) else VALUES
    return st.tuples(st.just(path), same | VALUES | st.just(DELETED))


def changed(record: Any, path: tuple[Any, ...], value: Any) -> Any:
    whole = inner = copy.deepcopy(record)
    for key in path[:-1]:
        inner = inner[key]
    if value is not DELETED:
        inner[path[-1]] = value
    elif isinstance(inner, list) or path[-1] in inner:
        del inner[path[-1]]
    return whole


def refusal(text: str) -> str:
    """Return why a record is refused; empty for one that is read."""
    try:
        parse_result(parse_result(text, "there").line(), "there")
    except UserError as error:
        return str(error)
    return ""


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    made=st.lists(st.sampled_from(list(places(RECORD))).flatmap(changes), min_size=1, max_size=2),
    place=st.integers(0, len(LINES) - 1),
)
def test_a_changed_record_is_refused_in_one_line_or_every_page_is_built(
    made: list[tuple[tuple[Any, ...], Any]], place: int, tmp_path: Path
) -> None:
    record = json.loads(LINES[place])
    for path, value in made:
        with suppress(KeyError, IndexError, TypeError):  # what the first change took away
            record = changed(record, path, value)
    text = json.dumps(record)
    if refused := refusal(text):
        assert refused.startswith("there")
        assert refused.isprintable()
    else:
        everything(tmp_path, text)


def everything(boards: Path, text: str) -> None:
    """Build all that is built from a record, of results and one more."""
    results = [*map(parse_result, LINES), parse_result(text)]
    write_results(boards / "demo" / "results.jsonl", {one.key: one for one in results})
    found = read_results(boards / "demo" / "results.jsonl").values()
    publish_board(boards / "demo", DEMO, rank_results(DEMO, found))
    build_site(boards, ["demo"])
    drawn, _ = make_curves(found)
    noise_styles(drawn)
    cells = measured_cells(DEMO, found)
    assert csv_table(cells, 2)
    assert bool(comparison_tables(cells)) == (len(cells) > 0)


def row(**fields: object) -> list[dict[str, object]]:
    return [{"step": 1, "test_accuracy": 0.5, "train_accuracy": 0.5, **fields}]


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("curve", {}, "there: Expected `array`, got `object` - at `$.curve`"),
        ("curve", [3], "there: Expected `object`, got `int` - at `$.curve[0]`"),
        ("curve", [{"step": 1}], "there: Object missing required field `test_accuracy` - at `$.curve[0]`"),
        ("curve", row(step=1.5), "there: Expected `int`, got `float` - at `$.curve[0].step`"),
        ("curve", row(step=0), "there: Expected `int` >= 1 - at `$.curve[0].step`"),
        ("curve", row() * 2, "there: the steps of the curve must ascend, not [1, 1]"),
        ("curve", row(test_accuracy=1.5), "there: Expected `float` <= 1.0 - at `$.curve[0].test_accuracy`"),
        ("curve", row(train_accuracy=None), "there: Expected `float`, got `null` - at `$.curve[0].train_accuracy`"),
        ("curve", row(more=1), "there: Object contains unknown field `more` - at `$.curve[0]`"),
        ("breaker", "a+b", "there: breaker 'a+b' is no name of a chain of 1"),
        ("breaker", "a(", "there, breaker: unbalanced parentheses in 'a('"),
        ("parameters", {}, "there: parameters must be of breaker, content, dataset, noise, recipe, target"),
        ("made_with", {}, "there, made_with: Object missing required field `device`"),
        (
            "made_with",
            {"device": "", "plugins": []},
            "there, made_with: Expected `object`, got `array` - at `$.plugins`",
        ),
        ("protected", 0, "there: Expected `float` > 0.0 - at `$.protected`"),
        ("flags", "diverged", "there: Expected `array`, got `str` - at `$.flags`"),
    ],
)
def test_what_is_wrong_with_a_record_is_said(field: str, value: object, expected: str) -> None:
    assert refusal(json.dumps({**RECORD, field: value})) == expected


def with_seed(digits: str) -> str:
    return LINES[0].replace('"seed": 0', f'"seed": {digits}')


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *((with_seed(digits), "JSON is malformed: invalid") for digits in ("NaN", "-Infinity", "00")),
        *((with_seed(digits), " out of range - at `$.seed`") for digits in ("1e999", "-1e999", "9" * 5000)),
        (with_seed("9" * 50), "Expected `int` <= 4294967295 - at `$.seed`"),
        (json.dumps({**RECORD, "noise": "\ud800"}), "JSON is malformed: unexpected end of hex escape"),
        (json.dumps({**RECORD, "noise": "\ud800"}, ensure_ascii=False), "'utf-8' codec can't encode"),
        (f"{LINES[0]} x", "JSON is malformed: trailing characters"),
        (LINES[0].replace('"device":', f'"more": {"[" * 100_000}, "device":'), "maximum recursion depth"),
        (LINES[0].replace('"device":', '"more": [1], "device":'), "Expected `bool | int | str | object | null`, got"),
        (json.dumps({**RECORD, "schema": 2, "more": 1}), "there has schema 2; this version reads 1"),
        (json.dumps({name: value for name, value in RECORD.items() if name != "schema"}), "there has schema None"),
    ],
)
def test_what_not_every_reader_takes_is_refused(text: str, expected: str) -> None:
    assert expected in refusal(text)


def test_a_text_may_hold_what_some_take_for_the_end_of_a_line(tmp_path: Path) -> None:
    one = parse_result(json.dumps({**RECORD, "noise": "a\u2028b\x85c"}))
    write_results(tmp_path / "results.jsonl", {one.key: one})
    assert read_results(tmp_path / "results.jsonl") == {one.key: one}
