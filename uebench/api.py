"""Use uebench from Python: run a suite, read records, protect images, and evaluate images under breakers.

Arrays of images are uint8, or floats in [0, 1] that are rounded to 8 bits, of shape (n, c, h, w) or (n, h, w, c) with 1
or 3 channels; labels are class numbers from 0, of shape (n,). Components are written as on the command line, such as
`"sem:radius=8/255"`. Finished work is kept in `store` and not done again. A user's mistake raises `UserError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # torch and pandas load where they are used
    import numpy as np
    import pandas as pd

    from uebench.executors.settings import ExecutionSettings

__all__ = ["evaluate", "protect", "read_record", "run"]
_STORE = ".uebench"


def run(
    suite: str = "demo",
    *,
    noises: Sequence[str] = (),
    breakers: Sequence[str] = (),
    targets: Sequence[str] = (),
    datasets: Sequence[str] = (),
    seeds: Sequence[int] = (),
    recipe: str | None = None,
    store: str | Path = _STORE,
    boards: str | Path | None = None,
    device: str | None = None,
    workers: int = 1,
) -> pd.DataFrame:
    """Run a suite, or the part of it that the lists name, as `uebench run` does; return a row for each network.

    Accuracies are in [0, 1], on clean test images. The results join the user's own record. Raises `UserError` with what
    failed; the same call then runs only what is missing.
    """
    from uebench.board.records import find_boards, results_frame
    from uebench.components.errors import UserError
    from uebench.workflows import run as workflow
    from uebench.workflows.arrays import open_silent_listener

    request = workflow.RunRequest(suite, noises, breakers, targets, datasets, recipe=recipe, seeds=seeds)
    settings = _settings(store, device, workers)
    prepared = workflow.prepare_run(request, settings, Path(boards) if boards else find_boards(), load=True)
    report = workflow.run_suite(prepared, settings, open_silent_listener)
    if not report.completed:
        raise KeyboardInterrupt
    if report.status:
        reasons = [f"{name}: {reason}" for name, reason in report.failures.items()]
        raise UserError("; ".join([*reasons, *map(str, prepared.broken)]))
    return results_frame(report.results)


def read_record(
    suite: str = "demo",
    record: Literal["published", "own", "both"] | None = None,
    *,
    store: str | Path = _STORE,
    boards: str | Path | None = None,
) -> pd.DataFrame:
    """Return the results of a suite, a row for each trained network.

    Without `record` these are the published results, or the user's own where nothing is published. In `both` the user's
    own result counts where both records have a cell.
    """
    from uebench.board.records import find_boards, read_records, results_frame
    from uebench.planning.suite_file import read_suite

    records = read_records(read_suite(suite).name, Path(store), Path(boards) if boards else find_boards())
    return results_frame(records.choose(record or records.default).values())


def protect(
    images: Any,
    labels: Any,
    noise: str,
    *,
    suite: str = "demo",
    seed: int = 0,
    store: str | Path = _STORE,
    device: str | None = None,
) -> np.ndarray:
    """Return protected images: uint8, in the layout of `images`, within the budget of the noise.

    Parameters that `noise` does not give are those of the suite, which also trains a noise's victims by its recipe.
    """
    from uebench.workflows.arrays import protect_array

    return protect_array(images, labels, noise, suite, seed, _settings(store, device, 1))


def evaluate(
    images: Any,
    labels: Any,
    test_images: Any,
    test_labels: Any,
    *,
    breakers: Sequence[str] = ("none",),
    suite: str = "demo",
    targets: Sequence[str] = (),
    recipe: str | None = None,
    seeds: Sequence[int] = (0,),
    store: str | Path = _STORE,
    device: str | None = None,
    workers: int = 1,
) -> pd.DataFrame:
    """Train networks on images under breakers, and return a row for each, with its accuracy on the test images.

    Targets and recipe are those of the suite where they are not given. Evaluate clean images, too: what a noise
    protects is the difference.
    """
    from uebench.board.records import results_frame
    from uebench.workflows.arrays import evaluate_array

    results = evaluate_array(
        (images, labels),
        (test_images, test_labels),
        suite,
        breakers,
        targets,
        recipe,
        seeds,
        _settings(store, device, workers),
    )
    return results_frame(results).drop(columns=["suite", "dataset", "noise", "protected", "kind"])


def _settings(store: str | Path, device: str | None, workers: int) -> ExecutionSettings:
    from uebench.executors.settings import ExecutionSettings

    return ExecutionSettings(Path(store), device, workers)
