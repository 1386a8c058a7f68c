"""Summarises a board in three sentences: what plain training loses, what required breakers recover, and what all do."""

from __future__ import annotations

from collections import Counter

from uebench.board.columns import range_text
from uebench.board.ranking import Board
from uebench.board.rows import NoiseRow
from uebench.board.standings import SEEDS


def headline(board: Board) -> str:
    """Return the summary of a board as markdown; an empty text if no noise has a rank or accuracies are missing."""
    clean, no_breaker = board.reference, "none"
    rows = sorted(board.rows_with_rank, key=lambda row: -(row.residual_protection or 0))
    if not rows or clean is None or any(no_breaker not in row.accuracies for row in (clean, *rows)):
        return ""
    targets = [name for name, required in board.targets.items() if required]
    network = targets[0] if len(targets) == 1 else "the network that each noise stops least"
    on_clean = [clean.accuracies[no_breaker].mean]
    on_protected = [row.accuracies[no_breaker].mean for row in rows]
    recovered = [row.accuracies[row.worst_breaker or ""].mean for row in rows]
    worst_breakers = Counter(row.worst_breaker for row in rows).most_common()
    breakers = ", ".join(f"`{name}` for {count}" for name, count in worst_breakers)
    seeds = sorted({row.seeds for row in rows})
    first, last = rows[0], rows[-1]
    protection = f"`{first.noise}` keeps {_residual_text(first)} of protection"
    protection += "" if first is last else f" and `{last.noise}` {_residual_text(last)}"
    return (
        f"On {board.setting}, {network} reaches {_percent_range(on_clean)} % after plain training on clean images and "
        f"{_percent_range(on_protected)} % on protected ones. The required breaker that recovers most ({breakers}) "
        f"reaches {_percent_range(recovered)} %: {protection} "
        f"({len(rows)} noises, seeds for each: {range_text(seeds[0], seeds[-1])}). {_best_known_sentence(board)}\n"
    )


def _best_known_sentence(board: Board) -> str:
    """Return what noises keep against every breaker that was run, required or not; some noise must have a rank."""
    rows = sorted(board.rows_with_rank, key=lambda row: -(row.residual_best_known or 0))
    kept = [f"{100 * (row.residual_best_known or 0):.1f} points (`{row.best_known_breaker}`)" for row in rows]
    breakers = {breaker for row in rows for breaker in row.residuals}
    if breakers <= {row.breaker for row in board.breakers if row.required}:
        return "The board has no other breaker, so the best known residuals are the same."
    least = f", and `{rows[-1].noise}` least, {kept[-1]}" if len(rows) > 1 else ""
    return (
        f"Against every breaker run so far, {len(breakers)} on the board, `{rows[0].noise}` keeps "
        f"{'most, ' if least else ''}{kept[0]}{least}."
    )


def _residual_text(row: NoiseRow) -> str:
    """Return the residual protection of a row in points, with its interval where it is known."""
    interval = ""
    if row.seeds >= SEEDS and row.residual_low is not None and row.residual_high is not None:
        interval = f" [{100 * row.residual_low:.1f}, {100 * row.residual_high:.1f}]"
    return f"{100 * (row.residual_protection or 0):.1f}{interval} points"


def _percent_range(values: list[float]) -> str:
    """Return the lowest and the highest accuracy, in percent."""
    return range_text(f"{100 * min(values):.1f}", f"{100 * max(values):.1f}")
