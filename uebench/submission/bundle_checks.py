"""Checks a bundle before a board accepts it: it has exactly the cells of its entry, and no contradiction."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

from uebench.board.agreement import Agreement, count_test_images, run_deviation
from uebench.board.copied_results import copied_noises
from uebench.board.groups import required_labels
from uebench.components.errors import UserError
from uebench.components.spec import canonical_text, component_label
from uebench.planning.selection import chain_label_in_suite, label_in_suite, resolve_recipe
from uebench.planning.suite import Suite
from uebench.storage.history import Rulings
from uebench.storage.job_log import check_job_log
from uebench.storage.result import Result
from uebench.storage.strict_json import check_printable
from uebench.submission.bundle import Bundle
from uebench.submission.entry import Entry, cell_of_result, derive_manifest_fields, entry_from_bundle
from uebench.submission.record_checks import check_record
from uebench.submission.restore_components import NotInstalled, parse_canonical, restore_chain, restore_component

KEY, SHA256 = re.compile("[0-9a-f]{32}"), re.compile("[0-9a-f]{64}")
DISTRIBUTION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
NAME_LENGTH = 200
"""Most characters of what a submitter states about himself."""
NAMED = 3
"""Missing cells that a message names."""


def check_bundle(
    bundle: Bundle, suite: Suite, board: Mapping[str, Result], rulings: Rulings, now: datetime
) -> list[Agreement]:
    """Return the agreement of each reference with that on the board; raises `UserError` for a bundle that is not valid.

    `board` has the results on record by key, `now` has a time zone.
    """
    entry = entry_from_bundle(bundle, suite)
    for result in bundle.results:
        if result.suite != suite.name:
            raise UserError(f"result {result.key[:40]!r} is of suite {result.suite!r}, not of {suite.name!r}")
        check_record(result, resolve_recipe(entry.part), now)
        for name, text in (
            ("dataset", entry.dataset),
            ("content", entry.content),
            ("recipe", canonical_text(resolve_recipe(entry.part))),
        ):
            if result.parameters[name] != text:
                raise UserError(f"result {result.key} has {name} {result.parameters[name]!r}, the entry {text!r}")
    _check_complete(entry, bundle)
    _check_manifest(entry, bundle)
    _check_names(entry, bundle, board, suite)
    _check_one_noise(bundle)
    if not entry.breaker:
        _check_copies(entry, bundle, board, rulings)
    records = {**dict.fromkeys(bundle.manifest["released"]), **{result.key: result for result in bundle.results}}
    check_job_log(bundle.log, records, resolve_recipe(entry.part).steps, now)
    _check_listed(entry, bundle, board, rulings)
    return _references(entry, bundle, board)


def _check_complete(entry: Entry, bundle: Bundle) -> None:
    """Raise `UserError` where a cell is missing, or not needed, or the seeds are not 0, 1, 2 and so on."""
    seeds = sorted({result.seed for result in bundle.results})
    recorded_cells = {(*cell_of_result(result), result.seed) for result in bundle.results}
    names = {
        text: label
        for result in bundle.results
        for text, label in zip(cell_of_result(result), _labels(result), strict=True)
    }
    breakers, targets = required_labels(entry.part)
    names |= {**breakers, **targets, entry.clean: "none"}
    with suppress(UserError):  # a component that is not installed goes by its canonical text
        names |= {text: label_in_suite(entry.part, "noise", restore_component("noise", text)) for text in entry.noises}
        if entry.breaker:
            names[entry.breaker] = chain_label_in_suite(entry.part, restore_chain(entry.breaker))
    for result in bundle.results:
        if cell_of_result(result) not in entry.needed:
            raise UserError(f"the bundle holds {' / '.join(_labels(result))}, which the entry does not need")
    missing_cells = sorted({(*needed, seed) for needed in entry.needed for seed in seeds or [0]} - recorded_cells)
    if missing_cells:
        cell_texts = [
            f"{' / '.join(names.get(text, text) for text in texts)} seed {seed}" for *texts, seed in missing_cells
        ]
        more = f" and {len(cell_texts) - NAMED} more" if len(cell_texts) > NAMED else ""
        raise UserError(f"the entry lacks {'; '.join(cell_texts[:NAMED])}{more}")
    if seeds != list(range(len(seeds))):
        raise UserError(f"seeds must be 0, 1, 2 and so on, so that nobody chooses them, not {str(seeds)[:60]}")


def _labels(result: Result) -> tuple[str, str, str]:
    return result.noise, result.breaker, result.target


def _check_manifest(entry: Entry, bundle: Bundle) -> None:
    """Raise `UserError` where the manifest contradicts the results, or states something impossible."""
    manifest = bundle.manifest
    for name, value in derive_manifest_fields(bundle.results).items():
        if manifest[name] != value:
            raise UserError(f"the manifest's {name} are not those of the results")
    for name, text in manifest["submitter"].items():
        check_printable(text, f"the submitter's {name}", NAME_LENGTH)
    if not manifest["submitter"]["name"].strip():
        raise UserError("the bundle names no submitter")
    if not re.fullmatch(r"(https?://[!-~]+)?", manifest["submitter"]["paper"]):
        raise UserError(f"the paper must be an http or https address, not {manifest['submitter']['paper']!r}")
    used = {pair for result in bundle.results for pair in result.made_with["plugins"].items()}
    for distribution in manifest["distributions"]:
        if not DISTRIBUTION.fullmatch(distribution["name"]) or not SHA256.fullmatch(distribution["sha256"]):
            raise UserError(f"{distribution['name']!r} with SHA-256 {distribution['sha256']!r} is not a distribution")
        if (distribution["name"], distribution["version"]) not in used:
            raise UserError(f"no result was made with {distribution['name']} {distribution['version']!r}")
    released = manifest["released"]
    if not all(KEY.fullmatch(key) and SHA256.fullmatch(value) for key, value in released.items()):
        raise UserError("a released noise goes by a key of 32 digits and has a SHA-256 of 64")
    if len(released) != len(entry.noises) * len(manifest["seeds"]):
        raise UserError(
            f"{len(released)} released noises for {len(entry.noises)} noises and {len(manifest['seeds'])} seeds"
        )


def _check_names(entry: Entry, bundle: Bundle, board: Mapping[str, Result], suite: Suite) -> None:
    """Raise `UserError` where a label is not the one that the suite gives, or belongs to another component."""
    breakers, targets = required_labels(entry.part)
    labels = {
        "breaker": {**breakers},
        "target": {**targets},
        "noise": {entry.clean: "none"},
        "dataset": {},
        "recipe": {},
    }
    labels["recipe"][canonical_text(resolve_recipe(entry.part))] = component_label(resolve_recipe(entry.part))
    for result in board.values():
        for kind, names in labels.items():
            names.setdefault(result.parameters[kind], getattr(result, kind))
    for kind, texts in (("noise", entry.noises), ("dataset", [entry.dataset])):
        for text in texts:
            with suppress(NotInstalled):
                own = suite.part(
                    parse_canonical("dataset", entry.dataset)[0],
                    parse_canonical(kind, text)[0] if kind == "noise" else "",
                )
                labels[kind].setdefault(text, label_in_suite(own, kind, restore_component(kind, text)))
    with suppress(NotInstalled):
        if entry.breaker:
            labels["breaker"].setdefault(entry.breaker, chain_label_in_suite(entry.part, restore_chain(entry.breaker)))
    for result in bundle.results:
        for kind, names in labels.items():
            text, name = result.parameters[kind], getattr(result, kind)
            if names.setdefault(text, name) != name:
                raise UserError(f"result {result.key} calls a {kind} {name!r} that is called {names[text]!r}")
            others = [
                canonical
                for canonical, same in names.items()
                if same == name and not _is_other_version(canonical, text)
            ]
            if others != [text]:
                raise UserError(f"result {result.key} calls a {kind} {name!r}, which is the name of another")


def _is_other_version(first: str, second: str) -> bool:
    """Return whether two canonical texts are of two versions of one component, which may share a label."""
    (name, _, rest), (other_name, _, other_rest) = first.partition("@"), second.partition("@")
    return name == other_name and rest.partition(":")[0] != other_rest.partition(":")[0]


def _check_copies(entry: Entry, bundle: Bundle, board: Mapping[str, Result], rulings: Rulings) -> None:
    """Raise `UserError` where a noise of the entry has the results of another noise, number for number.

    Withdrawn noises and other versions of the noise do not count: a correction may leave every number as it was.
    """
    listed = (result for result in board.values() if result.parameters["noise"] not in rulings.withdrawn)
    results = [*listed, *bundle.results]
    names = {result.parameters["noise"]: result.noise for result in results}
    copies = copied_noises(results, entry.clean)
    for noise in entry.noises:
        for other in (text for text in copies.get(noise, []) if not _is_other_version(noise, text)):
            raise UserError(f"the results of {names[noise]} are those of {names[other]}, number for number")


def _check_one_noise(bundle: Bundle) -> None:
    """Raise `UserError` where results of one noise and seed have different measurements of the noise."""
    measures: dict[tuple[str, int], tuple[Any, ...]] = {}
    for result in bundle.results:
        own = (result.noise_norm, result.noise_linf, result.noise_l2, result.psnr, result.ssim)
        if measures.setdefault((result.parameters["noise"], result.seed), own) != own:
            raise UserError(f"results of {result.noise} seed {result.seed} differ in what they measured of the noise")


def _check_listed(entry: Entry, bundle: Bundle, board: Mapping[str, Result], rulings: Rulings) -> None:
    """Raise `UserError` where the board has other data, withdrew a noise, or does not list a noise that is broken."""
    contents = {
        result.parameters["content"] for result in board.values() if result.parameters["dataset"] == entry.dataset
    }
    if contents and entry.content not in contents:
        raise UserError(
            f"the bundle is of other data: content {entry.content[:16]!r}, on the board {sorted(contents)[0][:16]!r}"
        )
    names = {result.parameters["noise"]: result.noise for result in bundle.results}
    for noise in entry.noises:
        if noise in rulings.withdrawn:
            raise UserError(f"noise {names[noise]} is withdrawn: {rulings.withdrawn[noise]}")
    for noise in entry.noises if entry.breaker else ():
        listed = Entry(entry.part, entry.dataset, entry.content, [noise], "")
        board_cells = {(*cell_of_result(result), result.seed) for result in listed.pick(board.values())}
        seeds = set.intersection(
            *({seed for *texts, seed in board_cells if tuple(texts) == need} for need in listed.needed)
        )
        if not seeds:
            raise UserError(f"noise {names[noise]} is not listed on the board; hand in its entry first")
        if not seeds <= set(bundle.manifest["seeds"]):
            own = bundle.manifest["seeds"]
            raise UserError(f"noise {names[noise]} is listed with seeds {sorted(seeds)}, the bundle has {own}")


def _references(entry: Entry, bundle: Bundle, board: Mapping[str, Result]) -> list[Agreement]:
    """Return the agreement of each reference with the board, by the spread over its seeds; raises `UserError`."""
    images = count_test_images(point.test_accuracy for result in bundle.results for point in result.curve)
    agreements = []
    for result in bundle.results:
        if not entry.own(result) and result.key in board:
            old = board[result.key]
            same = [recorded.test_accuracy for recorded in board.values() if same_cell(recorded, old)]
            name = f"reference {' / '.join(_labels(result))} seed {result.seed}"
            agreements.append(Agreement(name, result.test_accuracy, old.test_accuracy, run_deviation(same, images)))
            if not agreements[-1].holds:
                raise UserError(f"{agreements[-1]}; the second number is the board's")
    return agreements


def same_cell(result: Result, other: Result) -> bool:
    """Return whether two results are of one cell, apart from the seed."""
    return all(getattr(result, name) == getattr(other, name) for name in ("parameters", "protected", "kind"))
