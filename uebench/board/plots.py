"""Draws curves as SVG: the same bytes for the same data, readable on white and on near-black and without colour."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from uebench.board.curves import Curves

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7")
"""The colours of Okabe and Ito (Color Universal Design, 2008) that are visible on white and on black."""
MARKERS = "osD^vPX<>ph"
"""Markers that are easy to distinguish; with the colours they make 66 different noises."""
STROKES = ("-", "-.", ":")
"""Line styles, one for each repetition of the colours; dashes are for the clean set."""
GREY = "#777777"
"""Contrast 4.5 to white and 4.7 to black."""
WIDTH, PANEL_COLUMNS = 7.2, 4
"""Inches, which a README shows without scaling; panels in a row."""
LINE, SHORT = 92, 24
"""Characters that fit into the figure, and into a panel or a legend."""
SETTINGS: Any = {
    "axes.edgecolor": GREY,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": GREY,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "none",
    "font.size": 9,
    "grid.alpha": 0.2,
    "grid.color": GREY,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "text.color": GREY,
    "text.parse_math": False,
    "xtick.color": GREY,
    "ytick.color": GREY,
}

Style = Mapping[str, Any]


def noise_styles(drawn: Sequence[Curves]) -> dict[str, Style]:
    """Return the look of every noise, by canonical text: a noise looks the same in all figures of a record."""
    told = ["reference", "noise", "parameters"]
    noises = sorted({row for curves in drawn for row in curves.points[told].itertuples(index=False, name=None)})
    looks: dict[str, Style] = {text: {"color": GREY, "marker": "."} for reference, _, text in noises if reference}
    names = dict.fromkeys(text for reference, _, text in noises if not reference)
    for place, text in enumerate(names):
        turn, colour = divmod(place, len(COLOURS))
        marker, stroke = MARKERS[place % len(MARKERS)], STROKES[turn % len(STROKES)]
        looks[text] = {"color": COLOURS[colour], "marker": marker, "linestyle": stroke}
    return looks


def figure_svg(curves: Curves, looks: Mapping[str, Style]) -> bytes:
    """Return a figure as SVG, its text as text."""
    with _settings(curves.name):
        file = io.BytesIO()
        about = {"Title": f"{curves.title} ({curves.setting})", "Date": None, "Creator": None}
        draw_figure(curves, looks).savefig(file, format="svg", metadata=about)
    return file.getvalue()


def draw_figure(curves: Curves, looks: Mapping[str, Style]) -> Figure:
    """Return a figure with a line for every curve, accuracy in percent, and intervals where there are several seeds."""
    figure = Figure()
    figure.set_figwidth(WIDTH)
    (_panels if curves.panels else _single)(figure, curves, looks)
    few, many = curves.points["seeds"].min(), curves.points["seeds"].max()
    seeds = f"mean and 95 % interval of {few if few == many else f'{few} to {many}'} seeds" if many > 1 else "one seed"
    setting = textwrap.wrap(f"{curves.setting}; {seeds}", LINE, break_on_hyphens=False)
    figure.suptitle("\n".join([*textwrap.wrap(curves.title, LINE), *setting]), x=0.01, ha="left", fontsize="medium")
    return figure


class _Folded(textwrap.TextWrapper):
    """Breaks lines where the text of a component has a joint; there are no blanks in it."""

    wordsep_simple_re = re.compile("(?<=[:,=_+])")


def _name(part: pd.DataFrame) -> str:
    """Return the name of the noise that some points are of, a long one in several lines."""
    name = "clean set" if part["reference"].iloc[0] else str(part["noise"].iloc[0])
    return _Folded(SHORT, break_on_hyphens=False).fill(name)


def _single(figure: Figure, curves: Curves, looks: Mapping[str, Style]) -> None:
    """Draw all curves into one panel; the legend has them in the order of their right ends."""
    axes = figure.subplots()
    axes.set(xlabel=curves.axis, ylabel="accuracy (%)", ylim=(0, 102))
    ends = list[tuple[float, Line2D]]()
    for (noise, curve, dashed), part in curves.points.groupby(["parameters", "curve", "dashed"], sort=False):
        look = {**looks[str(noise)], **({"linestyle": "--"} if dashed else {})}
        (line,) = axes.plot(part["x"], 100 * part["mean"], label=curve or _name(part), **look)
        known = part[part["seeds"] > 1]
        lengths = [100 * (known["mean"] - known["low"]), 100 * (known["high"] - known["mean"])]
        axes.errorbar(
            known["x"], 100 * known["mean"], lengths, fmt="none", ecolor=look["color"], elinewidth=1.2, alpha=0.6
        )
        ends.append((part["mean"].iloc[-1], line))
    apart = (max(curves.ticks) - min(curves.ticks)) / 16  # labels nearer to each other would overlap
    kept = list[float]()
    for tick in sorted(curves.ticks):
        if not kept or tick - kept[-1] >= apart:
            kept.append(tick)
    axes.set_xticks(kept, [curves.ticks[tick] for tick in kept])
    handles = [line for _, line in sorted(ends, key=lambda end: -end[0])]
    written = sum(str(line.get_label()).count("\n") + 1 for line in handles)
    figure.set_figheight(max(4.2, 1 + 0.2 * written))
    figure.legend(handles=handles, loc="outside right center")


def _panels(figure: Figure, curves: Curves, looks: Mapping[str, Style]) -> None:
    """Draw a panel for each noise, all on the same axes."""
    parts = [part for _, part in curves.points.groupby("parameters", sort=False)]
    columns = min(PANEL_COLUMNS, len(parts))
    rows = -(-len(parts) // columns)
    figure.set_figheight(1.4 + 1.4 * rows)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    handles: dict[str, Line2D] = {}
    for place, (axes, part) in enumerate(zip(grid.flat, parts, strict=False)):
        for (noise, curve, dashed), points in part.groupby(["parameters", "curve", "dashed"], sort=False):
            stroke: Literal["--", "-"] = "--" if dashed else "-"
            colour = looks[str(noise)]["color"]
            axes.plot(points["x"], 100 * points["mean"], color=colour, linestyle=stroke, marker=".", markersize=4)
            known = points[points["seeds"] > 1]
            axes.fill_between(
                known["x"], 100 * known["low"], 100 * known["high"], color=colour, alpha=0.15, linewidth=0
            )
            handles[str(curve)] = Line2D([], [], color=GREY, linestyle=stroke, label=curve)
        axes.set(title=_name(part), ylim=(0, 102))
        axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
        if place + columns >= len(parts):  # no panel below
            axes.set_xlabel(curves.axis)
            axes.tick_params(labelbottom=True)
    for axes in grid.flat[len(parts) :]:
        axes.remove()
    for axes in grid[:, 0]:
        axes.set_ylabel("accuracy (%)")
    figure.legend(handles=[*handles.values()], loc="outside lower center", ncols=2)


@contextmanager
def _settings(salt: str) -> Iterator[None]:
    """Draw with these settings and no one else's; the salt makes ids unlike those of another figure on one page."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**SETTINGS, "svg.hashsalt": salt})
        yield
