"""Finds noises whose results are those of another noise, number for number."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from uebench.storage.result import Result

FEWEST_EQUAL_CELLS = 3
"""Fewest equal cells that show a copy: one or two short curves can be equal by chance."""


def copied_noises(results: Iterable[Result], clean: str) -> dict[str, list[str]]:
    """Return the noises whose every curve equals that of another noise, with those others, by canonical text.

    A curve has the accuracies on test and training images. Only cells that both noises have are compared, at least
    `FEWEST_EQUAL_CELLS`; `clean` is the clean reference.
    """
    cells: dict[tuple[str, ...], dict[tuple[tuple[float, ...], ...], set[str]]] = defaultdict(lambda: defaultdict(set))
    for result in results:
        noise = result.parameters["noise"]
        if noise == clean:
            continue
        others = (value for kind, value in sorted(result.parameters.items()) if kind != "noise")
        cell = (*others, str(result.seed), str(result.protected), result.kind)
        last = (result.test_accuracy, result.train_accuracy)
        curve = (last, *((point.test_accuracy, point.train_accuracy) for point in result.curve))
        cells[cell][curve].add(noise)
    equal, shared = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for curves in cells.values():
        equal.update(_pairs(noises for noises in curves.values()))
    candidates = {noise for pair in equal for noise in pair}
    for curves in cells.values():
        shared.update(_pairs([set().union(*curves.values()) & candidates]))
    copies = defaultdict[str, list[str]](list)
    for (first, second), count in equal.items():
        if count >= FEWEST_EQUAL_CELLS and count == shared[first, second]:
            copies[first].append(second)
            copies[second].append(first)
    return dict(copies)


def _pairs(groups: Iterable[set[str]]) -> Iterable[tuple[str, str]]:
    """Yield every pair of noises within each group, in the order of their texts."""
    for group in groups:
        noises = sorted(group)
        for index, first in enumerate(noises):
            yield from ((first, second) for second in noises[index + 1 :])
