"""Draws curves as SVG: equal data give equal bytes, and every figure is readable on white, on black and in grey."""

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
"""Markers that are easy to distinguish; with the colours they give 66 different styles."""
LINE_STYLES = ("-", "-.", ":")
"""Line styles, one for each repetition of the colours; dashes are for the clean set."""
GREY = "#777777"
"""A grey with contrast 4.5 to white and 4.7 to black."""
WIDTH, PANEL_COLUMNS = 7.2, 4
"""Width in inches that a README shows without scaling; panels in a row."""
TITLE_CHARACTERS, LABEL_CHARACTERS = 92, 24
"""Characters that fit into a line of the figure's title, and of a panel's title or the legend."""
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


def noise_styles(all_curves: Sequence[Curves]) -> dict[str, Style]:
    """Return the style of every noise, by canonical text: the same in all figures of a record."""
    columns = ["reference", "noise", "parameters"]
    rows = sorted({row for curves in all_curves for row in curves.points[columns].itertuples(index=False, name=None)})
    styles: dict[str, Style] = {text: {"color": GREY, "marker": "."} for reference, _, text in rows if reference}
    noises = dict.fromkeys(text for reference, _, text in rows if not reference)
    for index, text in enumerate(noises):
        repetition, colour_index = divmod(index, len(COLOURS))
        styles[text] = {
            "color": COLOURS[colour_index],
            "marker": MARKERS[index % len(MARKERS)],
            "linestyle": LINE_STYLES[repetition % len(LINE_STYLES)],
        }
    return styles


def figure_svg(curves: Curves, styles: Mapping[str, Style]) -> bytes:
    """Return a figure as SVG; its text stays text."""
    with _plot_settings(curves.name):
        file = io.BytesIO()
        metadata = {"Title": f"{curves.title} ({curves.setting})", "Date": None, "Creator": None}
        draw_figure(curves, styles).savefig(file, format="svg", metadata=metadata)
    return file.getvalue()


def draw_figure(curves: Curves, styles: Mapping[str, Style]) -> Figure:
    """Return a figure with a line for every curve, accuracy in percent, and intervals where there are several seeds."""
    figure = Figure()
    figure.set_figwidth(WIDTH)
    (_draw_panels if curves.panels else _draw_single_panel)(figure, curves, styles)
    fewest, most = curves.points["seeds"].min(), curves.points["seeds"].max()
    count = fewest if fewest == most else f"{fewest} to {most}"
    seeds = f"mean and 95 % interval of {count} seeds" if most > 1 else "one seed"
    setting = textwrap.wrap(f"{curves.setting}; {seeds}", TITLE_CHARACTERS, break_on_hyphens=False)
    title = textwrap.wrap(curves.title, TITLE_CHARACTERS)
    figure.suptitle("\n".join([*title, *setting]), x=0.01, ha="left", fontsize="medium")
    return figure


class _LabelWrapper(textwrap.TextWrapper):
    """Wraps the label of a component after `:`, `,`, `=`, `_` and `+`, because it has no blanks."""

    wordsep_simple_re = re.compile("(?<=[:,=_+])")


def _wrapped_label(points: pd.DataFrame) -> str:
    """Return the label of the noise of these points, wrapped where it is long."""
    label = "clean set" if points["reference"].iloc[0] else str(points["noise"].iloc[0])
    return _LabelWrapper(LABEL_CHARACTERS, break_on_hyphens=False).fill(label)


def _draw_single_panel(figure: Figure, curves: Curves, styles: Mapping[str, Style]) -> None:
    """Draw all curves into one panel; the legend lists them from the highest last value to the lowest."""
    axes = figure.subplots()
    axes.set(xlabel=curves.axis, ylabel="accuracy (%)", ylim=(0, 102))
    last_values = list[tuple[float, Line2D]]()
    for (noise, curve, dashed), points in curves.points.groupby(["parameters", "curve", "dashed"], sort=False):
        style = {**styles[str(noise)], **({"linestyle": "--"} if dashed else {})}
        (line,) = axes.plot(points["x"], 100 * points["mean"], label=curve or _wrapped_label(points), **style)
        known = points[points["seeds"] > 1]
        lengths = [100 * (known["mean"] - known["low"]), 100 * (known["high"] - known["mean"])]
        axes.errorbar(
            known["x"], 100 * known["mean"], lengths, fmt="none", ecolor=style["color"], elinewidth=1.2, alpha=0.6
        )
        last_values.append((points["mean"].iloc[-1], line))
    smallest_gap = (max(curves.ticks) - min(curves.ticks)) / 16  # labels closer than this would overlap
    shown_ticks = list[float]()
    for tick in sorted(curves.ticks):
        if not shown_ticks or tick - shown_ticks[-1] >= smallest_gap:
            shown_ticks.append(tick)
    axes.set_xticks(shown_ticks, [curves.ticks[tick] for tick in shown_ticks])
    handles = [line for _, line in sorted(last_values, key=lambda pair: -pair[0])]
    legend_lines = sum(str(line.get_label()).count("\n") + 1 for line in handles)
    figure.set_figheight(max(4.2, 1 + 0.2 * legend_lines))
    figure.legend(handles=handles, loc="outside right center")


def _draw_panels(figure: Figure, curves: Curves, styles: Mapping[str, Style]) -> None:
    """Draw a panel for each noise, all on the same axes."""
    noises = [points for _, points in curves.points.groupby("parameters", sort=False)]
    columns = min(PANEL_COLUMNS, len(noises))
    rows = -(-len(noises) // columns)
    figure.set_figheight(1.4 + 1.4 * rows)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    handles: dict[str, Line2D] = {}
    for index, (axes, noise_points) in enumerate(zip(grid.flat, noises, strict=False)):
        for (noise, curve, dashed), points in noise_points.groupby(["parameters", "curve", "dashed"], sort=False):
            line_style: Literal["--", "-"] = "--" if dashed else "-"
            colour = styles[str(noise)]["color"]
            axes.plot(points["x"], 100 * points["mean"], color=colour, linestyle=line_style, marker=".", markersize=4)
            known = points[points["seeds"] > 1]
            axes.fill_between(
                known["x"], 100 * known["low"], 100 * known["high"], color=colour, alpha=0.15, linewidth=0
            )
            handles[str(curve)] = Line2D([], [], color=GREY, linestyle=line_style, label=curve)
        axes.set(title=_wrapped_label(noise_points), ylim=(0, 102))
        axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
        if index + columns >= len(noises):  # no panel below
            axes.set_xlabel(curves.axis)
            axes.tick_params(labelbottom=True)
    for axes in grid.flat[len(noises) :]:
        axes.remove()
    for axes in grid[:, 0]:
        axes.set_ylabel("accuracy (%)")
    figure.legend(handles=[*handles.values()], loc="outside lower center", ncols=2)


@contextmanager
def _plot_settings(salt: str) -> Iterator[None]:
    """Replace the user's matplotlib settings while a figure is drawn.

    The salt keeps the ids of elements different from those of another figure on the same page.
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**SETTINGS, "svg.hashsalt": salt})
        yield
