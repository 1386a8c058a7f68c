"""Says in two sentences what a board found: what plain training loses, and what the required breakers win back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pandas as pd

from uebench.board.ranking import Board

PLACED = ("ranked", "provisional")
"""Status of the rows that have every required cell."""


def headline(board: Board) -> str:
    """Return what a board found, as markdown; an empty text where no noise has every required cell or no clean row."""
    rows = board.noises.to_dict("records")
    clean = next((row for row in rows if row["status"] == "reference"), {})
    placed = sorted((row for row in rows if row["status"] in PLACED), key=lambda row: -row["residual_protection"])
    plain = "accuracy none"
    if not placed or pd.isna(clean.get(plain)):
        return ""
    targets = [name for name, needed in board.targets.items() if needed]
    trained = targets[0] if len(targets) == 1 else "the network that each noise stops least"
    recovered = [row[f"accuracy {row['worst_breaker']}"] for row in placed]
    found_by = Counter(row["worst_breaker"] for row in placed).most_common()
    breakers = ", ".join(f"`{name}` for {count}" for name, count in found_by)
    seeds = sorted({row["seeds"] for row in placed})
    first, last = placed[0], placed[-1]
    kept = f"`{first['noise']}` keeps {_points(first)} of protection"
    kept += "" if first is last else f" and `{last['noise']}` {_points(last)}"
    return (
        f"On {board.setting}, {trained} reaches {_percent([clean[plain]])} % after plain training on clean images and "
        f"{_percent([row[plain] for row in placed])} % on protected ones. The required breaker that recovers most "
        f"({breakers}) reaches {_percent(recovered)} %: {kept} "
        f"({len(placed)} noises, seeds for each: {_span(seeds)}).\n"
    )


def _points(row: Mapping[Any, Any]) -> str:
    """Return the residual protection of a row in points, with its interval where it is known."""
    low, high = row["residual_low"], row["residual_high"]
    interval = "" if pd.isna(low) else f" [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{100 * row['residual_protection']:.1f}{interval} points"


def _percent(values: list[float]) -> str:
    """Return the lowest and the highest of accuracies, in percent."""
    return _span([f"{100 * value:.1f}" for value in sorted(values)])


def _span(values: list[Any]) -> str:
    return f"{values[0]}" if values[0] == values[-1] else f"{values[0]} to {values[-1]}"
