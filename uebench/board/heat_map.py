"""Draws accuracies of noises under breakers as a heat map, an SVG that needs no drawing library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

from uebench.board.columns import breaker_names, percent
from uebench.board.ranking import Board
from uebench.board.rows import SeedMean

CIVIDIS = ("#00224e", "#35456c", "#666970", "#948e77", "#c8b866", "#fee838")
"""Six even steps of matplotlib's colour map cividis, which people with colour blindness read alike."""
LABEL_GREY = "#777777"
"""Text outside of cells: contrast 4.5 to white and 4.7 to black."""
LABEL, CELL, ROW, CHARACTER = 170, 74, 26, 6.6
"""Pixels: width of the names, of a cell, height of a row, width of a character."""
CAPTION = "Accuracy on clean test images, in percent. Dark: little was learned. *: every rank needs it."
FONT = "font-family:system-ui,sans-serif;font-size:12px"


def cell_colour(value: float) -> tuple[str, str]:
    """Return the fill for a value in [0, 1], and black or white, whichever is easier to read on it."""
    position = min(max(value, 0.0), 1.0) * (len(CIVIDIS) - 1)
    index = min(int(position), len(CIVIDIS) - 2)
    low, high = (tuple(bytes.fromhex(text[1:])) for text in CIVIDIS[index : index + 2])
    red, green, blue = (
        round(first + (second - first) * (position - index)) for first, second in zip(low, high, strict=True)
    )
    linear = [
        (part / 255 / 12.92 if part <= 10 else ((part / 255 + 0.055) / 1.055) ** 2.4) for part in (red, green, blue)
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]  # WCAG 2.2; equal contrast at 0.179
    return f"#{red:02x}{green:02x}{blue:02x}", "#000000" if luminance > 0.179 else "#ffffff"


def board_heat_map(board: Board) -> bytes:
    """Return the heat map of a board, as SVG: the clean set first, then noises by the accuracy that is recovered."""
    rows = sorted(board.noises, key=lambda row: (row.status != "reference", -(row.residual_best_known or 0), row.noise))
    required = set(breaker_names(board, required=True))
    breakers = {name: name + "*" * (name in required) for name in breaker_names(board, required=False)}
    cells = {(row.noise, breaker): mean for row in rows for breaker, mean in row.accuracies.items()}
    return heat_map_svg(board.setting, [row.noise for row in rows if row.accuracies], breakers, cells)


def heat_map_svg(
    title: str, noises: Sequence[str], breakers: Mapping[str, str], cells: Mapping[tuple[str, str], SeedMean]
) -> bytes:
    """Return a heat map as SVG: a row for each noise, a column for each breaker, accuracy in percent in each cell.

    `breakers` maps a breaker's name to the text over its column. `cells` maps (noise, breaker) to an accuracy; what it
    lacks stays empty. Colours run from 0 to the highest accuracy of the map. The same values give the same bytes.
    """
    highest = max((cell.mean for cell in cells.values()), default=0) or 1
    label = max(LABEL, round(CHARACTER * max(map(len, noises), default=0)) + 16)
    slant = max((len(name) for name in breakers.values()), default=0) * CHARACTER
    top = round(0.6 * slant) + 58  # sine of the headers' angle; cosine in the width
    width = max(
        label + CELL * len(breakers) + round(0.8 * slant) - CELL // 2, round(CHARACTER * max(len(title), len(CAPTION)))
    )
    height = top + ROW * len(noises) + 8
    svg = ElementTree.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {width} {height}",
            "width": str(width),
            "height": str(height),
            "role": "img",
            "style": FONT,
        },
    )
    _add(svg, "title", {}, title)
    _add(svg, "text", {"x": "0", "y": "14", "fill": LABEL_GREY, "font-weight": "bold"}, title)
    _add(svg, "text", {"x": "0", "y": "32", "fill": LABEL_GREY}, CAPTION)
    for column, header in enumerate(breakers.values()):
        x, y = label + CELL * column + CELL // 2, top - 8
        _add(svg, "text", {"x": f"{x}", "y": f"{y}", "fill": LABEL_GREY, "transform": f"rotate(-37 {x} {y})"}, header)
    for row, noise in enumerate(noises):
        y = top + ROW * row
        _add(svg, "text", {"x": f"{label - 8}", "y": f"{y + 17}", "fill": LABEL_GREY, "text-anchor": "end"}, noise)
        for column, breaker in enumerate(breakers):
            cell = cells.get((noise, breaker))
            if cell is None:
                continue
            x = label + CELL * column
            fill, ink = cell_colour(cell.mean / highest)
            group = _add(svg, "g", {})
            _add(group, "title", {}, f"{noise} under {breaker}: {_cell_text(cell)}")
            _add(
                group, "rect", {"x": f"{x}", "y": f"{y}", "width": f"{CELL - 2}", "height": f"{ROW - 2}", "fill": fill}
            )
            middle = {"x": f"{x + CELL // 2 - 1}", "y": f"{y + 16}", "fill": ink, "text-anchor": "middle"}
            _add(group, "text", middle, f"{100 * cell.mean:.1f}")
    return b"%b\n" % ElementTree.tostring(svg, encoding="utf-8")


def _cell_text(cell: SeedMean) -> str:
    return f"{percent(cell.mean, cell.deviation)} %, {cell.seeds} {'seed' if cell.seeds == 1 else 'seeds'}"


def _add(parent: ElementTree.Element, tag: str, attributes: dict[str, str], text: str = "") -> ElementTree.Element:
    child = ElementTree.SubElement(parent, tag, attributes)
    child.text = text or None
    return child
