"""What must hold of a bundle before a board takes it: every cell and no other, and no contradiction."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

from uebench.board.groups import required_labels
from uebench.components.errors import UserError
from uebench.components.spec import canonical_text, component_label
from uebench.planning.selection import chain_label_in_suite, label_in_suite, resolve_recipe
from uebench.planning.suite import Suite
from uebench.storage.history import Rulings
from uebench.storage.job_log import check_job_log
from uebench.storage.result import Result
from uebench.storage.strict_json import check_printable
from uebench.submission.agreement import Agreement, count_test_images, run_deviation
from uebench.submission.bundle import Bundle
from uebench.submission.entry import Entry, cell_of_result, derive_manifest_fields, entry_from_bundle
from uebench.submission.record_checks import check_record
from uebench.submission.restore_components import NotInstalled, parse_canonical, restore_chain, restore_component

KEY, SHA256 = re.compile("[0-9a-f]{32}"), re.compile("[0-9a-f]{64}")
DISTRIBUTION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
NAME_LENGTH = 200
"""What a submitter may say of himself, and where."""
NAMED = 3
"""How many missing cells a message names."""


def check_bundle(
    found: Bundle, suite: Suite, board: Mapping[str, Result], rulings: Rulings, now: datetime
) -> list[Agreement]:
    """Return how the references agree with those on the board; raises `UserError` for a bundle that is not valid.

    `board` are the results on record by key, `now` has a time zone.
    """
    made = entry_from_bundle(found, suite)
    for result in found.results:
        if result.suite != suite.name:
            raise UserError(f"result {result.key[:40]!r} is of suite {result.suite!r}, not of {suite.name!r}")
        check_record(result, resolve_recipe(made.part), now)
        for name, text in (
            ("dataset", made.dataset),
            ("content", made.content),
            ("recipe", canonical_text(resolve_recipe(made.part))),
        ):
            if result.parameters[name] != text:
                raise UserError(f"result {result.key} has {name} {result.parameters[name]!r}, the entry {text!r}")
    _check_complete(made, found)
    _check_manifest(made, found)
    _check_names(made, found, board, suite)
    _check_one_noise(found)
    devices = {result.key: result.made_with["device"] for result in found.results}
    check_job_log(
        found.log, {**dict.fromkeys(found.manifest["released"], ""), **devices}, resolve_recipe(made.part).steps, now
    )
    _check_listed(made, found, board, rulings)
    return _references(made, found, board)


def _check_complete(made: Entry, found: Bundle) -> None:
    """Raise `UserError` where a cell is missing or too many, or the seeds are not the first ones."""
    seeds = sorted({result.seed for result in found.results})
    there = {(*cell_of_result(result), result.seed) for result in found.results}
    names = {
        text: label
        for result in found.results
        for text, label in zip(cell_of_result(result), _labels(result), strict=True)
    }
    breakers, targets = required_labels(made.part)
    names |= {**breakers, **targets, made.clean: "none"}
    with suppress(UserError):  # what is not here goes by its whole text
        names |= {text: label_in_suite(made.part, "noise", restore_component("noise", text)) for text in made.noises}
        names |= {made.breaker: chain_label_in_suite(made.part, restore_chain(made.breaker))} if made.breaker else {}
    for result in found.results:
        if cell_of_result(result) not in made.needed:
            raise UserError(f"the bundle holds {' / '.join(_labels(result))}, which the entry does not need")
    lacking = sorted({(*needed, seed) for needed in made.needed for seed in seeds or [0]} - there)
    if lacking:
        told = [f"{' / '.join(names.get(text, text) for text in texts)} seed {seed}" for *texts, seed in lacking]
        more = f" and {len(told) - NAMED} more" if len(told) > NAMED else ""
        raise UserError(f"the entry lacks {'; '.join(told[:NAMED])}{more}")
    if seeds != list(range(len(seeds))):
        raise UserError(f"seeds must be 0, 1, 2 and so on, so that nobody chooses them, not {str(seeds)[:60]}")


def _labels(one: Result) -> tuple[str, str, str]:
    return one.noise, one.breaker, one.target


def _check_manifest(made: Entry, found: Bundle) -> None:
    """Raise `UserError` where the manifest contradicts the results, or says something that cannot be."""
    says = found.manifest
    for name, value in derive_manifest_fields(found.results).items():
        if says[name] != value:
            raise UserError(f"the manifest's {name} are not those of the results")
    for name, text in says["submitter"].items():
        check_printable(text, f"the submitter's {name}", NAME_LENGTH)
    if not says["submitter"]["name"].strip():
        raise UserError("the bundle names no submitter")
    if not re.fullmatch(r"(https?://[!-~]+)?", says["submitter"]["paper"]):
        raise UserError(f"the paper must be an http or https address, not {says['submitter']['paper']!r}")
    used = {pair for result in found.results for pair in result.made_with["plugins"].items()}
    for distribution in says["distributions"]:
        if not DISTRIBUTION.fullmatch(distribution["name"]) or not SHA256.fullmatch(distribution["sha256"]):
            raise UserError(f"{distribution['name']!r} with SHA-256 {distribution['sha256']!r} is no distribution")
        if (distribution["name"], distribution["version"]) not in used:
            raise UserError(f"no result was made with {distribution['name']} {distribution['version']!r}")
    released = says["released"]
    if not all(KEY.fullmatch(key) and SHA256.fullmatch(value) for key, value in released.items()):
        raise UserError("a released noise goes by a key of 32 digits and has a SHA-256 of 64")
    if len(released) != len(made.noises) * len(says["seeds"]):
        raise UserError(f"{len(released)} released noises for {len(made.noises)} noises and {len(says['seeds'])} seeds")


def _check_names(made: Entry, found: Bundle, board: Mapping[str, Result], suite: Suite) -> None:
    """Raise `UserError` where a label is not the one that the suite gives, or is another component's."""
    breakers, targets = required_labels(made.part)
    told = {"breaker": {**breakers}, "target": {**targets}, "noise": {made.clean: "none"}, "dataset": {}, "recipe": {}}
    told["recipe"][canonical_text(resolve_recipe(made.part))] = component_label(resolve_recipe(made.part))
    for result in board.values():
        for kind, names in told.items():
            names.setdefault(result.parameters[kind], getattr(result, kind))
    for kind, texts in (("noise", made.noises), ("dataset", [made.dataset])):
        for text in texts:
            with suppress(NotInstalled):
                own = suite.part(
                    parse_canonical("dataset", made.dataset)[0],
                    parse_canonical(kind, text)[0] if kind == "noise" else "",
                )
                told[kind].setdefault(text, label_in_suite(own, kind, restore_component(kind, text)))
    with suppress(NotInstalled):
        if made.breaker:
            told["breaker"].setdefault(made.breaker, chain_label_in_suite(made.part, restore_chain(made.breaker)))
    for result in found.results:
        for kind, names in told.items():
            text, name = result.parameters[kind], getattr(result, kind)
            if names.setdefault(text, name) != name:
                raise UserError(f"result {result.key} calls a {kind} {name!r} that is called {names[text]!r}")
            others = [
                canonical for canonical, same in names.items() if same == name and not _successor(canonical, text)
            ]
            if others != [text]:
                raise UserError(f"result {result.key} calls a {kind} {name!r}, which is the name of another")


def _successor(one: str, other: str) -> bool:
    """Tell whether two canonical texts are of two versions of one component, which may have one name."""
    (name, _, rest), (same, _, also) = one.partition("@"), other.partition("@")
    return name == same and rest.partition(":")[0] != also.partition(":")[0]


def _check_one_noise(found: Bundle) -> None:
    """Raise `UserError` where results of one noise and seed measured two noises."""
    measures: dict[tuple[str, int], tuple[Any, ...]] = {}
    for result in found.results:
        own = (result.noise_norm, result.noise_linf, result.noise_l2, result.psnr, result.ssim)
        if measures.setdefault((result.parameters["noise"], result.seed), own) != own:
            raise UserError(f"results of {result.noise} seed {result.seed} differ in what they measured of the noise")


def _check_listed(made: Entry, found: Bundle, board: Mapping[str, Result], rulings: Rulings) -> None:
    """Raise `UserError` where the board has other data or withdrew a noise, or does not list one that is broken."""
    contents = {
        result.parameters["content"] for result in board.values() if result.parameters["dataset"] == made.dataset
    }
    if contents and made.content not in contents:
        raise UserError(
            f"the bundle is of other data: content {made.content[:16]!r}, on the board {sorted(contents)[0][:16]!r}"
        )
    names = {result.parameters["noise"]: result.noise for result in found.results}
    for noise in made.noises:
        if noise in rulings.withdrawn:
            raise UserError(f"noise {names[noise]} is withdrawn: {rulings.withdrawn[noise]}")
    for noise in made.noises if made.breaker else ():
        listed = Entry(made.part, made.dataset, made.content, [noise], "")
        there = {(*cell_of_result(result), result.seed) for result in listed.pick(board.values())}
        seeds = set.intersection(*({seed for *texts, seed in there if tuple(texts) == need} for need in listed.needed))
        if not seeds:
            raise UserError(f"noise {names[noise]} is not listed on the board; hand in its entry first")
        if not seeds <= set(found.manifest["seeds"]):
            own = found.manifest["seeds"]
            raise UserError(f"noise {names[noise]} is listed with seeds {sorted(seeds)}, the bundle has {own}")


def _references(made: Entry, found: Bundle, board: Mapping[str, Result]) -> list[Agreement]:
    """Return how each reference agrees with the board's, by the spread over the board's seeds; raises `UserError`."""
    images = count_test_images(point.test_accuracy for result in found.results for point in result.curve)
    agreements = []
    for result in found.results:
        if not made.own(result) and result.key in board:
            old = board[result.key]
            same = [recorded.test_accuracy for recorded in board.values() if same_cell(recorded, old)]
            name = f"reference {' / '.join(_labels(result))} seed {result.seed}"
            agreements.append(Agreement(name, result.test_accuracy, old.test_accuracy, run_deviation(same, images)))
            if not agreements[-1].holds:
                raise UserError(f"{agreements[-1]}; found is what the board has")
    return agreements


def same_cell(one: Result, other: Result) -> bool:
    """Tell whether two results are of one cell, but for the seed."""
    return all(getattr(one, name) == getattr(other, name) for name in ("parameters", "protected", "kind"))
