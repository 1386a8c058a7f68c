"""Figures show the data, equal data give equal bytes, and noises are distinguishable without colour."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from msgspec import structs
from scipy import stats

from tests.board.test_curves import attacked, cell, two_shares
from uebench.board.curves import Curves, make_curves
from uebench.board.plots import COLOURS, GREY, draw_figure, figure_svg, noise_styles
from uebench.cli.main import main
from uebench.storage.result import Result
from uebench.storage.results_file import write_results

TRAINED = [
    cell(noise, "none", 0.5, seed, curve=[(10, 0.145 + offset, 0.8), (20, 0.245 + offset, 0.9)])
    for noise in ("none", "em", "rem", "sem", "tap")
    for seed, offset in enumerate((0.0, 0.01))
]
FIGURES = {"parameter": attacked(), "steps": TRAINED, "share": two_shares()}


def first_curves(results: Sequence[Result]) -> Curves:
    """Return the data of the first figure."""
    return make_curves(results)[0][0]


def first_figure(results: Sequence[Result]) -> Figure:
    """Return the first figure, drawn."""
    curves = first_curves(results)
    return draw_figure(curves, noise_styles([curves]))


T_TWO_SEEDS = stats.t.ppf(0.975, 1)
"""Half of the interval of two seeds, as a multiple of half of their difference."""


def lines(axes: Axes) -> dict[str, np.ndarray]:
    """Return the points of all lines, by the line's label."""
    return {str(line.get_label()): np.asarray(line.get_xydata()) for line in axes.lines}


def areas(axes: Axes) -> list[np.ndarray]:
    """Return the corners of every band and bar."""
    return [path.vertices for collection in axes.collections for path in collection.get_paths() if len(path.vertices)]


def test_the_lines_of_one_panel_are_the_means_in_percent() -> None:
    found = lines(first_figure(attacked()).axes[0])
    assert set(found) == {"clean set", "em"}
    assert found["em"] == pytest.approx(np.array([[0, 30], [1 / 255, 55], [2 / 255, 70]]))
    assert found["clean set"] == pytest.approx(np.array([[0, 90], [1 / 255, 80]]))


def test_bars_are_the_interval_and_one_seed_has_none() -> None:
    bars = areas(first_figure(attacked()).axes[0])
    em_bounds = {round(bar[0][0] * 255): (bar[0][1], bar[1][1]) for bar in bars if bar[:, 1].mean() < 75}
    assert em_bounds == {
        0: pytest.approx((30 - T_TWO_SEEDS, 30 + T_TWO_SEEDS), abs=1),
        1: pytest.approx((55 - 0.5 * T_TWO_SEEDS, 55 + 0.5 * T_TWO_SEEDS), abs=0.5),
    }


def test_every_noise_has_a_panel_with_both_curves_and_a_band() -> None:
    figure = first_figure(TRAINED)
    assert [axes.get_title() for axes in figure.axes] == ["clean set", "em", "rem", "sem", "tap"]
    for axes in figure.axes:
        test, train = axes.lines
        assert np.asarray(test.get_xydata()) == pytest.approx(np.array([[10, 15], [20, 25]]))
        assert np.asarray(train.get_xydata()) == pytest.approx(np.array([[10, 80], [20, 90]]))
        assert (test.get_linestyle(), train.get_linestyle()) == ("-", "--")
        assert areas(axes)[0][:, 1].min() == pytest.approx(15 - 0.5 * T_TWO_SEEDS, abs=0.5)
        assert axes.get_ylim() == (0, 102)


@pytest.mark.parametrize("kind", FIGURES)
def test_one_seed_has_no_band_and_the_title_says_one_seed(kind: str) -> None:
    results = [result for result in FIGURES[kind] if result.seed == 0]
    figure = first_figure(results)
    assert [areas(axes) for axes in figure.axes] == [[]] * len(figure.axes)
    assert figure.get_suptitle().endswith("one seed")
    assert any(areas(axes) for axes in first_figure(FIGURES[kind]).axes)


def test_the_title_has_the_number_of_seeds() -> None:
    assert first_figure(attacked()).get_suptitle().endswith("mean and 95 % interval of 1 to 2 seeds")
    assert first_figure(TRAINED).get_suptitle().endswith("mean and 95 % interval of 2 seeds")


@pytest.mark.parametrize("kind", FIGURES)
def test_equal_data_give_equal_bytes_whatever_the_users_settings(kind: str) -> None:
    def svg(results: Sequence[Result]) -> bytes:
        curves = first_curves(results)
        return figure_svg(curves, noise_styles([curves]))

    with_defaults = svg(FIGURES[kind])
    with matplotlib.rc_context(
        {"font.size": 20, "xtick.direction": "in", "svg.fonttype": "path", "axes.facecolor": "red"}
    ):
        assert svg([*reversed(FIGURES[kind])]) == with_defaults
        assert matplotlib.rcParams["font.size"] == 20, "the user's settings are restored"
    assert b"<dc:date>" not in with_defaults


@pytest.mark.parametrize("kind", FIGURES)
def test_a_figure_has_no_background_and_text_is_text_in_mid_grey(kind: str) -> None:
    curves = first_curves(FIGURES[kind])
    svg = figure_svg(curves, noise_styles([curves])).decode()
    root = ElementTree.fromstring(svg)
    texts = list(root.iter("{http://www.w3.org/2000/svg}text"))
    assert {"".join(text.itertext()) for text in texts} >= {"em", "accuracy (%)", curves.title}
    assert all(GREY in text.get("style", "") for text in texts)
    assert not re.search(r"fill: (#fff|#ffffff|white|#000|#000000|black)\b", svg)


def luminance(colour: str) -> float:
    """Return the relative luminance of `#rrggbb` (WCAG 2)."""
    channels = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    red, green, blue = (
        channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4 for channel in channels
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("background", ["#ffffff", "#0d1117"])
def test_text_and_curves_are_visible_on_a_light_and_a_dark_background(background: str) -> None:
    def contrast(colour: str) -> float:
        low, high = sorted([luminance(colour), luminance(background)])
        return (high + 0.05) / (low + 0.05)

    assert contrast(GREY) > 4
    assert min(map(contrast, COLOURS)) > 2


def test_each_of_many_noises_has_its_own_style_in_all_figures() -> None:
    names = [f"noise-{index:02}" for index in range(30)]
    points = pd.DataFrame({"noise": names, "parameters": [f"{name}@1" for name in names], "reference": False})
    curves = Curves("curves", "", "", points)
    styles = noise_styles([curves, replace(curves, points=points.iloc[::-1])])
    assert len({(style["color"], style["marker"]) for style in styles.values()}) == 30
    assert "--" not in {style["linestyle"] for style in styles.values()}, "dashes are for the reference"
    assert all(a["color"] != b["color"] and a["marker"] != b["marker"] for a, b in pairwise(styles.values()))


def test_labels_of_close_values_do_not_overlap() -> None:
    results = [cell("em", f"jpeg:quality={quality}", 0.5) for quality in (1, 2, 3, 10, 50, 90)]
    figure = first_figure(results)
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["1", "10", "50", "90"]
    assert len(lines(figure.axes[0])["em"]) == 6, "all points are drawn"


def test_long_labels_are_wrapped_after_punctuation_and_stay_complete() -> None:
    label = "rem:noise_perturbation=random,surrogate_perturbation=none"
    results = [structs.replace(result, noise=label if result.noise == "em" else result.noise) for result in attacked()]
    wrapped = next(name for name in lines(first_figure(results).axes[0]) if name != "clean set")
    assert wrapped.split("\n") == ["rem:noise_perturbation=", "random,surrogate_", "perturbation=none"]


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[Result]], Path]:
    """Write a board's record; returns its folder."""
    monkeypatch.chdir(tmp_path)

    def write(results: Sequence[Result]) -> Path:
        folder = Path("leaderboards/demo")
        write_results(folder / "results.jsonl", {result.key: result for result in results})
        return folder

    return write


def test_the_command_draws_figures_and_lists_the_missing_ones(board: Callable[[Sequence[Result]], Path]) -> None:
    folder = board([*attacked(), *TRAINED])
    done = CliRunner().invoke(main, ["plot", "demo"], catch_exceptions=False)
    assert done.exit_code == 0
    names = ["radius_adv-linf_digits_smallcnn.svg", "steps_none_digits_smallcnn.svg"]
    assert [line.partition(": ")[0] for line in done.output.splitlines()] == [
        *(str(folder / "plots" / name) for name in names),
        "not drawn",
    ]
    assert "no noise has two shares" in done.output
    assert sorted(path.name for path in (folder / "plots").iterdir()) == names
    before = {path.name: path.read_bytes() for path in (folder / "plots").iterdir()}
    assert CliRunner().invoke(main, ["plot", "demo", "--into", "other"]).exit_code == 0
    assert {path.name: path.read_bytes() for path in Path("other").iterdir()} == before


def test_a_record_without_data_for_figures_is_no_error(board: Callable[[Sequence[Result]], Path]) -> None:
    folder = board([cell("em", "none", 0.5)])
    done = CliRunner().invoke(main, ["plot"], catch_exceptions=False)
    assert done.exit_code == 0
    assert [line.partition(": ")[0] for line in done.output.splitlines()] == ["not drawn"] * 3
    assert not (folder / "plots").exists()
