"""Breakers that choose a chain: splits the training set for their trials, and records what they chose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import structs

from uebench.components.errors import UserError
from uebench.components.interfaces import Split
from uebench.components.spec import chain_text, format_number
from uebench.compute.seeds import derive_seed, random_permutation
from uebench.planning.plan import Cell
from uebench.storage.result import Result


def split_held_out(training: Split, share: float, seed: int) -> tuple[Split, Split]:
    """Return a training set without its held-out share, and that share.

    The draw depends only on the seed, the share and the number of images: it is the same for all noises and chains.
    Raises `UserError` where one side would be empty.
    """
    count = len(training.labels)
    size = round(share * count)
    if not 0 < size < count:
        raise UserError(f"{size} of {count} images to hold out ({share:g}) leave one side empty")
    held = random_permutation(count, derive_seed(seed, "held-out", format_number(share))) < size
    by_image, by_label = held.to(training.images.device), held.to(training.labels.device)
    return (
        Split(training.images[~by_image], training.labels[~by_label]),
        Split(training.images[by_image], training.labels[by_label]),
    )


def best_trial(facts: Sequence[Mapping[str, Any]]) -> int:
    """Return the index of the highest accuracy among the facts of trials, the first of equals."""
    return max(range(len(facts)), key=lambda index: float(facts[index]["accuracy"]))


def record_of_choice(
    own: Result, cell: Cell, facts: Sequence[Mapping[str, Any]], plugins: Mapping[str, str], finished: str
) -> Result:
    """Return the result of a cell whose chain chooses, from that of the chosen chain; trials add their time.

    Chains go by canonical text.
    """
    peaks = [peak for peak in (own.peak_bytes, *(fact["peak_bytes"] for fact in facts)) if peak is not None]
    return structs.replace(
        own,
        key=cell.key,
        parameters=cell.parameters,
        chosen=chain_text(cell.trials[best_trial(facts)].cell.chain),
        trials={chain_text(trial.cell.chain): fact["accuracy"] for trial, fact in zip(cell.trials, facts, strict=True)},
        train_seconds=own.train_seconds + sum(fact["seconds"] for fact in facts),
        peak_bytes=max(peaks, default=None),
        made_with={**own.made_with, "plugins": {**own.made_with["plugins"], **plugins}},
        finished=finished,
    )
