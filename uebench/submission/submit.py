"""Hands results in: packs what a board needs of a noise, or of a breaker against listed noises, into a bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from uebench.board.publish import read_board
from uebench.board.standings import SEEDS
from uebench.components.errors import UserError
from uebench.components.spec import canonical_text, component_label
from uebench.jobs.datasets import content_fingerprint
from uebench.planning.job_names import job_name
from uebench.planning.plan import plan_protect
from uebench.planning.selection import Selection, resolve_recipe, select_components
from uebench.planning.suite import Suite, read_suite
from uebench.storage.job_log import read_job_log
from uebench.storage.result import Result
from uebench.storage.store import Store
from uebench.submission.bundle import BUNDLE_SCHEMA, Bundle, content_sha256, read_bundle, write_bundle
from uebench.submission.bundle_checks import check_bundle
from uebench.submission.distribution_hash import hash_distribution
from uebench.submission.entry import Entry, derive_manifest_fields, entry_terms


def submit_results(
    suite: str,
    lists: Mapping[str, Any],
    into: Path,
    images: bool,
    submitter: Mapping[str, str],
    store: Store,
    boards: Path,
    say: Callable[[str], None],
) -> None:
    """Write a bundle from the board's results; refuses what would not be valid.

    `lists` has the specifications of `noises`, `breakers` and `datasets`; with `images`, the released images of the
    noises are packed, else only their hashes.
    """
    chosen = read_suite(suite)
    selection = _select(chosen, lists)
    (source,), chain = selection.sources, selection.chains[0] if lists["breakers"] else ()
    noises = [canonical_text(noise) for noise in selection.noises]
    breaker = "+".join(canonical_text(breaker) for breaker in chain)
    made = Entry(chosen.part(source.name), canonical_text(source), content_fingerprint(source, store), noises, breaker)
    board, rulings = read_board(boards, chosen)
    results = sorted(made.pick(board.values()), key=lambda result: result.key)
    released = _released(made, selection, results, store)
    manifest = {
        "schema": BUNDLE_SCHEMA,
        "suite": chosen.name,
        "terms": entry_terms(made.part),
        "dataset": made.dataset,
        "content": made.content,
        "noises": noises,
        "breaker": breaker,
        **derive_manifest_fields(results),
        "distributions": _distributions([result for result in results if made.own(result)]),
        "released": {key: content_sha256(path) for key, path in released.items()},
        "submitter": dict(submitter),
    }
    keys = [*sorted(released), *(result.key for result in results)]
    logged = [line for key in keys for line in read_job_log(key, store.find(key) or {})]
    check_bundle(Bundle("", manifest, results, logged), chosen, board, rulings, datetime.now(UTC))
    write_bundle(into, manifest, results, released if images else {}, logged)
    describe_bundle(read_bundle(into), made, say)
    say(f"badge     claimed; send {into} to the maintainers of the board")


def _select(suite: Suite, lists: Mapping[str, Any]) -> Selection:
    """Return what is handed in, as components; raises `UserError` where it is not one thing.

    Several cross products of a suite may have it, as long as they mean the same by it.
    """
    found = select_components(suite, **lists, protected=[1.0], kind="mixed")
    several = {"dataset": {component_label(source) for part in found for source in part.sources}}
    if lists["breakers"]:
        several["breaker"] = {"+".join(map(component_label, chain)) for part in found for chain in part.chains}
    for kind, names in several.items():
        if len(names) != 1:
            told = ", ".join(sorted(names))
            raise UserError(f"a submission is of one {kind}, not {len(names)}: {told}; say which with --{kind}")
    judged = resolve_recipe(suite.part(found[0].sources[0].name))
    fits = [part for part in found if part.recipe == judged]
    if not fits:
        raise UserError(
            f"suite {suite.name} runs this by the recipe {component_label(found[0].recipe)}; entries are judged by "
            f"that of the first grid with this data set, {component_label(judged)}"
        )
    if len({tuple(part.noises) for part in fits}) > 1:
        texts = sorted({component_label(noise) for part in fits for noise in part.noises})
        raise UserError(f"grids of suite {suite.name} mean different noises: {'; '.join(texts)}; give every parameter")
    return fits[0]


def _released(made: Entry, selection: Selection, results: Sequence[Result], store: Store) -> dict[str, Path]:
    """Return the files of released images by the key of their job; raises `UserError` where one is not in the store."""
    found = {}
    for noise in selection.noises:
        for seed in sorted({result.seed for result in results if result.parameters["noise"] == canonical_text(noise)}):
            job = plan_protect(selection.sources[0], made.content, noise, selection.recipe, seed)
            files = store.find(job.key)
            if files is None:
                name = job_name(selection, job)
                raise UserError(f"what came of {name} is not in {store.root}; say where it is with --store")
            found[job.key] = files["released.safetensors"]
    return found


def _distributions(results: Sequence[Result]) -> list[dict[str, str]]:
    """Return name, version and hash of every distribution that took part; raises `UserError` for another version."""
    found = []
    for name, version in sorted({pair for result in results for pair in result.made_with.get("plugins", {}).items()}):
        installed = hash_distribution(name)
        if installed and installed[0] != version:
            raise UserError(f"results were made with {name} {version}; {installed[0]} is installed here")
        if installed:
            found.append({"name": name, "version": version, "sha256": installed[1]})
    return found


def describe_bundle(found: Bundle, made: Entry, say: Callable[[str], None]) -> None:
    """Say what a bundle is."""
    says, own = found.manifest, [result for result in found.results if made.own(result)]
    noises, seeds = ", ".join(sorted({result.noise for result in own})), ", ".join(map(str, says["seeds"]))
    what = f"breaker {own[0].breaker} against {noises}" if made.breaker else f"noise {noises}"
    few = "" if len(says["seeds"]) >= SEEDS else f"; provisional, a rank needs {SEEDS} seeds"
    say(f"bundle    sha256 {found.sha256}")
    say(f"entry     {what} on {own[0].dataset} in suite {says['suite']}, by {says['submitter']['name']}")
    say(f"cells     {len(found.results)} results, of them {len(own)} its own, seeds {seeds}{few}")
    kept = len({event["key"] for event in found.log} & set(says["keys"]))
    say(f"log       of {kept} of {len(found.results)} results")
    for distribution in says["distributions"]:
        here = hash_distribution(distribution["name"])
        same = "not installed" if not here else "the same files" if here[1] == distribution["sha256"] else "other files"
        say(f"plug-in   {distribution['name']} {distribution['version']}; here: {same}")
