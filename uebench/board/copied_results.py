"""Finds noises whose results are those of another noise, number for number."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import pairwise

from uebench.storage.result import Result

FEWEST_EQUAL_CELLS = 3
"""Fewest equal cells that show a copy: one or two short curves can be equal by chance."""
_Cell = tuple[str, ...]
_Curve = tuple[float, ...]


def copied_noises(results: Iterable[Result], clean: str) -> dict[str, list[str]]:
    """Return the noises whose every curve equals that of another noise, with those others, by canonical text.

    A curve has the accuracies on test and training images. Only cells that both noises have are compared, at least
    `FEWEST_EQUAL_CELLS`; `clean` is the clean reference. Of many equal noises each is named beside its neighbours in
    the order of texts, so that the time grows with the number of results alone.
    """
    curves: dict[str, dict[_Cell, _Curve]] = defaultdict(dict)
    noises_by_curve: dict[tuple[_Cell, _Curve], list[str]] = defaultdict(list)
    for result in results:
        noise = result.parameters["noise"]
        if noise != clean:
            cell, curve = _cell(result), _curve(result)
            curves[noise][cell] = curve
            noises_by_curve[cell, curve].append(noise)
    candidates = {pair for noises in noises_by_curve.values() for pair in pairwise(sorted(set(noises)))}
    copies = defaultdict[str, list[str]](list)
    for first, second in sorted(candidates):
        if _all_equal(curves[first], curves[second]):
            copies[first].append(second)
            copies[second].append(first)
    return dict(copies)


def _cell(result: Result) -> _Cell:
    """Return everything but the noise that decides a result."""
    components = (text for kind, text in sorted(result.parameters.items()) if kind != "noise")
    return (*components, str(result.seed), str(result.protected), result.kind)


def _curve(result: Result) -> _Curve:
    accuracies = [accuracy for point in result.curve for accuracy in (point.test_accuracy, point.train_accuracy)]
    return (*accuracies, result.test_accuracy, result.train_accuracy)


def _all_equal(first: Mapping[_Cell, _Curve], second: Mapping[_Cell, _Curve]) -> bool:
    """Return whether two noises have enough cells in common, and equal curves in all of them."""
    shared = first.keys() & second.keys()
    return len(shared) >= FEWEST_EQUAL_CELLS and all(first[cell] == second[cell] for cell in shared)
