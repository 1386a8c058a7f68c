"""What is drawn is the data, the same each time and for everyone, and noises are told apart without colour."""

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

from tests.board.test_curves import attacked, cell, shared
from uebench.board.curves import Curves, make_curves
from uebench.board.plots import COLOURS, GREY, draw_figure, figure_svg, noise_styles
from uebench.cli.main import main
from uebench.storage.result import Result
from uebench.storage.results_file import write_results

TRAINED = [
    cell(noise, "none", 0.5, seed, curve=[(10, 0.1 + off, 0.8), (20, 0.2 + off, 0.9)])
    for noise in ("none", "em", "rem", "sem", "tap")
    for seed, off in enumerate((0.0, 0.1))
]
FIGURES = {"parameter": attacked(), "steps": TRAINED, "share": shared()}


def first(results: Sequence[Result]) -> Curves:
    return make_curves(results)[0][0]


def drawn(one: Curves) -> Figure:
    return draw_figure(one, noise_styles([one]))


T_TWO_SEEDS = stats.t.ppf(0.975, 1)
"""Half of the interval of two seeds, in halves of their difference."""


def lines(axes: Axes) -> dict[str, np.ndarray]:
    """Return what is drawn as lines, by the line's name."""
    return {str(line.get_label()): np.asarray(line.get_xydata()) for line in axes.lines}


def areas(axes: Axes) -> list[np.ndarray]:
    """Return the bands and bars that are drawn, each a list of corners."""
    return [path.vertices for one in axes.collections for path in one.get_paths() if len(path.vertices)]


def test_the_lines_of_one_panel_are_the_means_in_percent() -> None:
    found = lines(drawn(first(attacked())).axes[0])
    assert set(found) == {"clean set", "em"}
    assert found["em"] == pytest.approx(np.array([[0, 30], [1 / 255, 55], [2 / 255, 70]]))
    assert found["clean set"] == pytest.approx(np.array([[0, 90], [1 / 255, 80]]))


def test_bars_are_the_interval_and_one_seed_has_none() -> None:
    bars = areas(drawn(first(attacked())).axes[0])
    half = {x: (bar[0][1], bar[1][1]) for bar in bars for x in (round(bar[0][0] * 255),) if bar[:, 1].mean() < 75}
    assert half == {
        0: pytest.approx((30 - 10 * T_TWO_SEEDS, 30 + 10 * T_TWO_SEEDS), abs=10),
        1: pytest.approx((55 - 5 * T_TWO_SEEDS, 55 + 5 * T_TWO_SEEDS), abs=5),
    }


def test_every_noise_has_a_panel_with_both_curves_and_a_band() -> None:
    figure = drawn(first(TRAINED))
    assert [axes.get_title() for axes in figure.axes] == ["clean set", "em", "rem", "sem", "tap"]
    for axes in figure.axes:
        test, train = axes.lines
        assert np.asarray(test.get_xydata()) == pytest.approx(np.array([[10, 15], [20, 25]]))
        assert np.asarray(train.get_xydata()) == pytest.approx(np.array([[10, 80], [20, 90]]))
        assert (test.get_linestyle(), train.get_linestyle()) == ("-", "--")
        assert areas(axes)[0][:, 1].min() == pytest.approx(15 - 5 * T_TWO_SEEDS, abs=5)
        assert axes.get_ylim() == (0, 102)


@pytest.mark.parametrize("kind", FIGURES)
def test_one_seed_has_no_band_and_says_so(kind: str) -> None:
    results = [one for one in FIGURES[kind] if one.seed == 0]
    figure = drawn(first(results))
    assert [areas(axes) for axes in figure.axes] == [[]] * len(figure.axes)
    assert figure.get_suptitle().endswith("one seed")
    assert any(areas(axes) for axes in drawn(first(FIGURES[kind])).axes)


def test_the_number_of_seeds_is_said() -> None:
    assert drawn(first(attacked())).get_suptitle().endswith("mean and 95 % interval of 1 to 2 seeds")
    assert drawn(first(TRAINED)).get_suptitle().endswith("mean and 95 % interval of 2 seeds")


@pytest.mark.parametrize("kind", FIGURES)
def test_the_same_data_give_the_same_bytes_whatever_the_user_likes(kind: str) -> None:
    def svg(results: Sequence[Result]) -> bytes:
        one = first(results)
        return figure_svg(one, noise_styles([one]))

    once = svg(FIGURES[kind])
    with matplotlib.rc_context(
        {"font.size": 20, "xtick.direction": "in", "svg.fonttype": "path", "axes.facecolor": "red"}
    ):
        assert svg([*reversed(FIGURES[kind])]) == once
        assert matplotlib.rcParams["font.size"] == 20, "the user's settings come back"
    assert b"<dc:date>" not in once


@pytest.mark.parametrize("kind", FIGURES)
def test_a_figure_has_no_background_and_text_is_text_in_mid_grey(kind: str) -> None:
    one = first(FIGURES[kind])
    written = figure_svg(one, noise_styles([one])).decode()
    root = ElementTree.fromstring(written)
    texts = list(root.iter("{http://www.w3.org/2000/svg}text"))
    assert {"".join(text.itertext()) for text in texts} >= {"em", "accuracy (%)", one.title}
    assert all(GREY in text.get("style", "") for text in texts)
    assert not re.search(r"fill: (#fff|#ffffff|white|#000|#000000|black)\b", written)


def luminance(colour: str) -> float:
    """Return the relative luminance of `#rrggbb` (WCAG 2)."""
    values = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("ground", ["#ffffff", "#0d1117"])
def test_text_and_curves_show_on_light_and_on_dark_ground(ground: str) -> None:
    def contrast(colour: str) -> float:
        low, high = sorted([luminance(colour), luminance(ground)])
        return (high + 0.05) / (low + 0.05)

    assert contrast(GREY) > 4
    assert min(map(contrast, COLOURS)) > 2


def test_many_noises_look_different_each_and_the_same_in_every_figure() -> None:
    names = [f"noise-{place:02}" for place in range(30)]
    points = pd.DataFrame({"noise": names, "parameters": [f"{name}@1" for name in names], "reference": False})
    one = Curves("one", "", "", points)
    looks = noise_styles([one, replace(one, points=points.iloc[::-1])])
    assert len({(look["color"], look["marker"]) for look in looks.values()}) == 30
    assert "--" not in {look["linestyle"] for look in looks.values()}, "dashes are for the reference"
    assert all(a["color"] != b["color"] and a["marker"] != b["marker"] for a, b in pairwise(looks.values()))


def test_labels_of_values_that_lie_close_do_not_overlap() -> None:
    results = [cell("em", f"jpeg:quality={quality}", 0.5) for quality in (1, 2, 3, 10, 50, 90)]
    figure = drawn(first(results))
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["1", "10", "50", "90"]
    assert len(lines(figure.axes[0])["em"]) == 6, "all points are drawn"


def test_long_names_are_folded_at_their_joints_and_nothing_of_them_is_lost() -> None:
    long = "rem:noise_perturbation=random,surrogate_perturbation=none"
    results = [structs.replace(one, noise=long if one.noise == "em" else one.noise) for one in attacked()]
    folded = next(name for name in lines(drawn(first(results)).axes[0]) if name != "clean set")
    assert folded.split("\n") == ["rem:noise_perturbation=", "random,surrogate_", "perturbation=none"]


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[Result]], Path]:
    """Write a board's record; returns its folder."""
    monkeypatch.chdir(tmp_path)

    def write(results: Sequence[Result]) -> Path:
        folder = Path("leaderboards/demo")
        write_results(folder / "results.jsonl", {one.key: one for one in results})
        return folder

    return write


def test_the_command_draws_what_it_can_and_says_what_it_cannot(board: Callable[[Sequence[Result]], Path]) -> None:
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


def test_a_record_that_has_data_for_no_figure_is_no_mistake(board: Callable[[Sequence[Result]], Path]) -> None:
    folder = board([cell("em", "none", 0.5)])
    done = CliRunner().invoke(main, ["plot"], catch_exceptions=False)
    assert done.exit_code == 0
    assert [line.partition(": ")[0] for line in done.output.splitlines()] == ["not drawn"] * 3
    assert not (folder / "plots").exists()
