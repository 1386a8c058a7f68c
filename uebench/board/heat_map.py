"""Draws accuracies of noises under breakers as a heat map, an SVG that needs no drawing library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

from uebench.board.columns import breaker_names, percent
from uebench.board.ranking import Board
from uebench.board.rows import SeedMean

CIVIDIS = ("#00224e", "#35456c", "#666970", "#948e77", "#c8b866", "#fee838")
"""Six even steps of matplotlib's colour map cividis, which is readable with colour blindness."""
LABEL_GREY = "#777777"
"""Colour of text outside the cells: contrast 4.5 to white and 4.7 to black."""
LABEL_WIDTH, CELL_WIDTH, ROW_HEIGHT, CHARACTER_WIDTH = 170, 74, 26, 6.6
"""Sizes in pixels; labels may be wider."""
CAPTION = "Accuracy on clean test images, in percent. Dark: little was learned. *: every rank needs it."
FONT = "font-family:system-ui,sans-serif;font-size:12px"


def cell_colour(value: float) -> tuple[str, str]:
    """Return the fill colour for a value in [0, 1], and the text colour, black or white, with more contrast to it."""
    position = min(max(value, 0.0), 1.0) * (len(CIVIDIS) - 1)
    index = min(int(position), len(CIVIDIS) - 2)
    low, high = (tuple(bytes.fromhex(text[1:])) for text in CIVIDIS[index : index + 2])
    red, green, blue = (
        round(first + (second - first) * (position - index)) for first, second in zip(low, high, strict=True)
    )
    linear = [
        (channel / 255 / 12.92 if channel <= 10 else ((channel / 255 + 0.055) / 1.055) ** 2.4)
        for channel in (red, green, blue)
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]  # WCAG 2.2; equal contrast at 0.179
    return f"#{red:02x}{green:02x}{blue:02x}", "#000000" if luminance > 0.179 else "#ffffff"


def board_heat_map(board: Board) -> bytes:
    """Return the heat map of a board as SVG, the clean set first, then noises by their best-known residual."""
    rows = sorted(board.noises, key=lambda row: (row.status != "reference", -(row.residual_best_known or 0), row.noise))
    required = set(breaker_names(board, required=True))
    headers = {name: name + "*" * (name in required) for name in breaker_names(board, required=False)}
    cells = {(row.noise, breaker): mean for row in rows for breaker, mean in row.accuracies.items()}
    return heat_map_svg(board.setting, [row.noise for row in rows if row.accuracies], headers, cells)


def heat_map_svg(
    title: str, noises: Sequence[str], headers: Mapping[str, str], cells: Mapping[tuple[str, str], SeedMean]
) -> bytes:
    """Return a heat map as SVG: a row for each noise, a column for each breaker, accuracy in percent in each cell.

    `headers` maps a breaker's name to the header of its column. `cells` maps (noise, breaker) to an accuracy; a missing
    cell stays empty. Colours range from 0 to the highest accuracy of the map. Equal values give equal bytes.
    """
    highest = max((cell.mean for cell in cells.values()), default=0) or 1
    label_width = max(LABEL_WIDTH, round(CHARACTER_WIDTH * max(map(len, noises), default=0)) + 16)
    header_length = max((len(header) for header in headers.values()), default=0) * CHARACTER_WIDTH
    top = round(0.6 * header_length) + 58  # 0.6 and 0.8: sine and cosine of the headers' angle
    map_width = label_width + CELL_WIDTH * len(headers) + round(0.8 * header_length) - CELL_WIDTH // 2
    width = max(map_width, round(CHARACTER_WIDTH * max(len(title), len(CAPTION))))
    height = top + ROW_HEIGHT * len(noises) + 8
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
    for column, header in enumerate(headers.values()):
        x, y = label_width + CELL_WIDTH * column + CELL_WIDTH // 2, top - 8
        _add(svg, "text", {"x": f"{x}", "y": f"{y}", "fill": LABEL_GREY, "transform": f"rotate(-37 {x} {y})"}, header)
    for row, noise in enumerate(noises):
        y = top + ROW_HEIGHT * row
        _add(
            svg, "text", {"x": f"{label_width - 8}", "y": f"{y + 17}", "fill": LABEL_GREY, "text-anchor": "end"}, noise
        )
        for column, breaker in enumerate(headers):
            cell = cells.get((noise, breaker))
            if cell is None:
                continue
            x = label_width + CELL_WIDTH * column
            fill, text_colour = cell_colour(cell.mean / highest)
            group = _add(svg, "g", {})
            _add(group, "title", {}, f"{noise} under {breaker}: {_cell_text(cell)}")
            size = {"width": f"{CELL_WIDTH - 2}", "height": f"{ROW_HEIGHT - 2}"}
            _add(group, "rect", {"x": f"{x}", "y": f"{y}", **size, "fill": fill})
            centre = {"x": f"{x + CELL_WIDTH // 2 - 1}", "y": f"{y + 16}"}
            _add(group, "text", {**centre, "fill": text_colour, "text-anchor": "middle"}, f"{100 * cell.mean:.1f}")
    return b"%b\n" % ElementTree.tostring(svg, encoding="utf-8")


def _cell_text(cell: SeedMean) -> str:
    """Return the tooltip of a cell: its accuracy in percent and the number of seeds."""
    return f"{percent(cell.mean, cell.deviation)} %, {cell.seeds} {'seed' if cell.seeds == 1 else 'seeds'}"


def _add(parent: ElementTree.Element, tag: str, attributes: dict[str, str], text: str = "") -> ElementTree.Element:
    """Add an element to its parent and return it."""
    child = ElementTree.SubElement(parent, tag, attributes)
    child.text = text or None
    return child
