"""What a breaker that chooses goes by: a part of the training set to try chains on, and the rest to test them on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import structs

from uebench.components.errors import UserError
from uebench.components.interfaces import Split
from uebench.components.spec import chain_label, format_number
from uebench.compute.seeds import derive_seed, random_permutation
from uebench.planning.plan import Cell
from uebench.storage.result import Result


def split_held_out(shown: Split, share: float, seed: int) -> tuple[Split, Split]:
    """Return a training set without the share of it that is held out, and that share.

    The draw depends on the seed, the share and the number of images alone: it is one for all noises and chains.
    Raises `UserError` where one side would be empty.
    """
    count = len(shown.labels)
    size = round(share * count)
    if not 0 < size < count:
        raise UserError(f"{size} of {count} images to hold out ({share:g}) leave one side empty")
    held = random_permutation(count, derive_seed(seed, "held-out", format_number(share))) < size
    here, there = held.to(shown.images.device), held.to(shown.labels.device)
    return Split(shown.images[~here], shown.labels[~there]), Split(shown.images[here], shown.labels[there])


def best_trial(facts: Sequence[Mapping[str, Any]]) -> int:
    """Return the place of the highest accuracy among the facts of trials, the first of equals."""
    return max(range(len(facts)), key=lambda place: float(facts[place]["accuracy"]))


def record_of_choice(
    own: Result, cell: Cell, facts: Sequence[Mapping[str, Any]], plugins: Mapping[str, str], finished: str
) -> Result:
    """Return the record of a cell whose chain chooses, from that of the chosen chain; trials add their time."""
    peaks = [peak for peak in (own.peak_bytes, *(fact["peak_bytes"] for fact in facts)) if peak is not None]
    return structs.replace(
        own,
        key=cell.key,
        breaker=chain_label(cell.chain),
        parameters=cell.parameters,
        chosen=chain_label(cell.trials[best_trial(facts)].cell.chain),
        trials={
            chain_label(trial.cell.chain): fact["accuracy"] for trial, fact in zip(cell.trials, facts, strict=True)
        },
        train_seconds=own.train_seconds + sum(fact["seconds"] for fact in facts),
        peak_bytes=max(peaks, default=None),
        made_with={**own.made_with, "plugins": {**own.made_with["plugins"], **plugins}},
        finished=finished,
    )
