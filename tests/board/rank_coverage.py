"""Simulates boards with known ranks, to measure how often rank sets hold all of them and how wide the sets are.

`python -m tests.board.rank_coverage 100 uebench/site/docs/boards.md` writes the table into the documentation, from 100
boards for each row, in two minutes of one core. Without a document it prints the table, without a number from 1000
boards.
"""

from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path

import numpy as np

from uebench.board.intervals import CONFIDENCE, Values
from uebench.board.rank_sets import rank_sets

NOISES, CELLS = 8, 4
ORDERS = {
    "all noises equal": "every noise has the same accuracy under every breaker",
    "equal but for breakers": "all noises are equal, and breakers recover different accuracies",
    "half of them equal": "half of the noises are equal, and two breakers recover the same",
    "all different": "accuracies are uniform over 10 points",
}
BLOCK = re.compile(r"(<!-- rank coverage -->\n)(.*?)(<!-- end -->)", re.DOTALL)
"""The block of a document that has the table."""
SPREADS = ("equal", "unequal", "few large", "skewed to high", "skewed to low", "heavy tails")


def draw_means(order: str, random: np.random.Generator, noises: int = NOISES, cells: int = CELLS) -> Values:
    """Return true accuracies (noises, cells), in points."""
    if order == "all noises equal":
        return np.zeros((noises, cells))
    if order == "equal but for breakers":
        return np.tile(random.uniform(0, 10, cells), (noises, 1))
    means = random.uniform(0, 10, (noises, cells))
    if order == "half of them equal":
        means[: noises // 2] = means[0]
        means[:, 0] = means[:, 1]
    return means


def draw_errors(spread: str, shape: tuple[int, int, int], random: np.random.Generator) -> Values:
    """Return errors (noises, cells, seeds) of mean 0, in points, most with standard deviations near 1."""
    if spread == "skewed to high":
        return random.exponential(1, shape) - 1
    if spread == "skewed to low":
        return 1 - random.exponential(1, shape)
    errors = random.standard_normal(shape)
    if spread == "unequal":  # variances differ by a factor of 50 within two standard deviations
        errors *= np.exp(random.normal(0, 1, shape[:2]))[..., None]
    if spread == "few large":
        errors *= np.where(random.random(shape[:2]) < 0.15, 5.0, 0.5)[..., None]
    if spread == "heavy tails":
        errors = random.standard_t(5, shape) / np.sqrt(5 / 3)
    return errors


def true_rank_ranges(means: Values) -> tuple[Values, Values]:
    """Return the lowest and the highest rank of each noise; equal noises share a range."""
    highest = means.max(-1)
    return 1 + (highest < highest[:, None] - 1e-12).sum(1), (highest <= highest[:, None] + 1e-12).sum(1)


def simulate(
    order: str, spread: str, seeds: int, boards: int, shared: float = 0.0, start: int = 0
) -> tuple[float, float]:
    """Return the share of boards whose sets hold every true rank, and the mean number of ranks in a set.

    `shared` is the standard deviation, in points, of the error that all noises share in a seed and cell.
    """
    covered, width = 0, 0.0
    for board in range(boards):
        random = np.random.default_rng([start, board])
        means = draw_means(order, random)
        errors = draw_errors(spread, (NOISES, CELLS, seeds), random)
        errors += shared * random.standard_normal((1, CELLS, seeds))
        low, high = np.array(rank_sets(means[..., None] + errors)).T
        best, worst = true_rank_ranges(means)
        covered += bool(((low <= best) & (high >= worst)).all())
        width += float((high - low + 1).mean())
    return covered / boards, width / boards


def coverage_table(boards: int = 1000) -> str:
    """Return the table as markdown."""
    lines = [f"| order | spread | {' | '.join(f'{seeds} seeds: covered | ranks in a set' for seeds in (3, 5))} |"]
    lines.append("| --- | --- | ---: | ---: | ---: | ---: |")
    for order, spread in itertools.product(ORDERS, SPREADS):
        cells = []
        for seeds in (3, 5):
            covered, width = simulate(order, spread, seeds, boards, shared=0.5)
            cells += [f"{100 * covered:.1f} %", f"{width:.1f}"]
        lines.append(f"| {order} | {spread} | {' | '.join(cells)} |")
    error = 100 * np.sqrt(CONFIDENCE * (1 - CONFIDENCE) / boards)
    lines.append(f"\n{boards} boards each; a covered share has a standard error of {error:.1f} points at 95 %.")
    return "\n".join(lines)


def insert_coverage(document: Path, table: str) -> None:
    """Replace the block `<!-- rank coverage -->` of a document by a table; raises `ValueError` if it has none."""
    text, count = BLOCK.subn(lambda block: f"{block[1]}{table}\n{block[3]}", document.read_text("utf-8"))
    if not count:
        raise ValueError(f"{document} has no block <!-- rank coverage --> ... <!-- end -->")
    document.write_text(text, "utf-8")


if __name__ == "__main__":
    table = coverage_table(*map(int, sys.argv[1:2]))
    if sys.argv[2:]:
        insert_coverage(Path(sys.argv[2]), table)
    else:
        print(table)
