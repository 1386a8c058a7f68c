"""Says in two sentences what a board found: what plain training loses, and what the required breakers win back."""

from __future__ import annotations

from collections import Counter
from typing import Any

from uebench.board.ranking import Board
from uebench.board.rows import NoiseRow


def headline(board: Board) -> str:
    """Return what a board found, as markdown; an empty text where no noise has every required cell or no clean row."""
    clean, plain = board.reference, "none"
    placed = sorted(board.placed, key=lambda row: -(row.residual_protection or 0))
    if not placed or clean is None or any(plain not in row.accuracies for row in (clean, *placed)):
        return ""
    targets = [name for name, needed in board.targets.items() if needed]
    trained = targets[0] if len(targets) == 1 else "the network that each noise stops least"
    recovered = [row.accuracies[row.worst_breaker or ""].mean for row in placed]
    strongest = Counter(row.worst_breaker for row in placed).most_common()
    breakers = ", ".join(f"`{name}` for {count}" for name, count in strongest)
    seeds = sorted({row.seeds for row in placed})
    first, last = placed[0], placed[-1]
    kept = f"`{first.noise}` keeps {_points(first)} of protection"
    kept += "" if first is last else f" and `{last.noise}` {_points(last)}"
    return (
        f"On {board.setting}, {trained} reaches {_percent([clean.accuracies[plain].mean])} % after plain training on "
        f"clean images and {_percent([row.accuracies[plain].mean for row in placed])} % on protected ones. The "
        f"required breaker that recovers most ({breakers}) reaches {_percent(recovered)} %: {kept} "
        f"({len(placed)} noises, seeds for each: {_span(seeds)}).\n"
    )


def _points(row: NoiseRow) -> str:
    """Return the residual protection of a row in points, with its interval where it is known."""
    interval = ""
    if row.residual_low is not None and row.residual_high is not None:
        interval = f" [{100 * row.residual_low:.1f}, {100 * row.residual_high:.1f}]"
    return f"{100 * (row.residual_protection or 0):.1f}{interval} points"


def _percent(values: list[float]) -> str:
    """Return the lowest and the highest of accuracies, in percent."""
    return _span([f"{100 * value:.1f}" for value in sorted(values)])


def _span(values: list[Any]) -> str:
    return f"{values[0]}" if values[0] == values[-1] else f"{values[0]} to {values[-1]}"
