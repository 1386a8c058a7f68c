"""A heat map shows every accuracy in readable colours, and equal values give equal bytes."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uebench.board.heat_map import cell_colour, heat_map_svg
from uebench.board.rows import SeedMean

SVG = "{http://www.w3.org/2000/svg}"
CELLS = {("none", "none"): SeedMean(0.854, 0.001, 3), ("em<&>", "none"): SeedMean(0.193, None, 1)}


def contrast(first: str, second: str) -> float:
    """Return the contrast ratio of WCAG 2.2 between two colours."""

    def luminance(colour: str) -> float:
        channels = [channel / 255 for channel in bytes.fromhex(colour[1:])]
        linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@given(st.floats(-1, 2))
def test_every_number_is_readable_on_its_colour(value: float) -> None:
    fill, text_colour = cell_colour(value)
    assert contrast(fill, text_colour) >= 4.5


def test_colours_grow_lighter_with_the_value() -> None:
    lightness = [contrast("#000000", cell_colour(value / 50)[0]) for value in range(51)]
    assert lightness == sorted(lightness)
    assert lightness[-1] > 10 * lightness[0]


def test_a_map_has_a_number_and_a_tooltip_with_the_deviation_for_each_known_cell() -> None:
    svg = heat_map_svg("a <title>", ["none", "em<&>", "new"], {"none": "none", "adv": "(adv)"}, CELLS)
    root = ElementTree.fromstring(svg)
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert texts[0] == "a <title>"
    assert {"85.4", "19.3", "(adv)", "em<&>", "new"} < set(texts)
    assert len([*root.iter(f"{SVG}rect")]) == 2
    tooltips = [element.text for element in root.iter(f"{SVG}title")]
    assert "none under none: 85.4 ± 0.1 %, 3 seeds" in tooltips
    assert "em<&> under none: 19.3 %, 1 seed" in tooltips


def test_the_highest_accuracy_has_the_lightest_colour() -> None:
    root = ElementTree.fromstring(heat_map_svg("t", ["none", "em<&>"], {"none": "none"}, CELLS))
    fills = [element.get("fill") for element in root.iter(f"{SVG}rect")]
    assert fills == [cell_colour(1)[0], cell_colour(0.193 / 0.854)[0]]


@pytest.mark.parametrize("noises", [[], ["a" * 300]])
def test_an_empty_map_and_long_names_fit_into_the_picture(noises: list[str]) -> None:
    root = ElementTree.fromstring(heat_map_svg("t", noises, dict.fromkeys(["b" * 90], "b" * 90), {}))
    assert float(root.get("width", 0)) > 6 * sum(map(len, noises)) + 0.8 * 6 * 90
    assert heat_map_svg("t", noises, {}, {}) == heat_map_svg("t", noises, {}, {})
