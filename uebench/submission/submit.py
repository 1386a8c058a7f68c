"""`uebench submit`: packs the results that a board needs of a noise, or of a breaker against listed noises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from uebench.board.publish import read_board
from uebench.board.records import own_folder
from uebench.components.errors import UserError
from uebench.components.spec import canonical_text, component_label
from uebench.planning.job_names import job_name
from uebench.planning.plan import plan_protect
from uebench.planning.selection import Selection, resolve_recipe, select_components
from uebench.planning.suite import Suite
from uebench.planning.suite_file import read_suite
from uebench.storage.job_log import read_job_log
from uebench.storage.result import Result
from uebench.storage.results_file import RESULTS_FILE, read_results
from uebench.storage.store import Store
from uebench.submission.bundle import Bundle, content_sha256, read_bundle, write_bundle
from uebench.submission.bundle_checks import check_bundle
from uebench.submission.distribution_hash import hash_distribution
from uebench.submission.entry import Entry, derive_manifest_fields, entry_terms
from uebench.submission.manifest import BUNDLE_SCHEMA
from uebench.submission.reports import SubmissionReport, summarise_bundle


@dataclass(frozen=True)
class SubmissionRequest:
    """What is handed in, by whom: specifications of components, and what the manifest says of the submitter.

    With `images` the released images of the noises are packed, else only their hashes.
    """

    suite: str
    noises: Sequence[str]
    submitter: str
    breakers: Sequence[str] = ()
    datasets: Sequence[str] = ()
    contact: str = ""
    paper: str = ""
    images: bool = False


def submit_results(request: SubmissionRequest, path: Path, store: Store, boards: Path) -> SubmissionReport:
    """Write a bundle of the user's own results into a new file.

    Raises `UserError` where results are missing, where the store has other numbers, where the request is not one entry,
    or where a verifier would refuse the bundle.
    """
    from uebench.jobs.datasets import content_fingerprint  # loads torch, which nothing else here needs

    suite = read_suite(request.suite)
    selection = _select(suite, request)
    (source,), chain = selection.sources, selection.chains[0] if request.breakers else ()
    noises = [canonical_text(noise) for noise in selection.noises]
    breaker = "+".join(canonical_text(member) for member in chain)
    entry = Entry(suite.part(source.name), canonical_text(source), content_fingerprint(source, store), noises, breaker)
    board, rulings = read_board(boards, suite)
    own = read_results(own_folder(store.root, suite.name) / RESULTS_FILE)
    results = sorted(entry.pick(own.values()), key=lambda result: result.key)
    _check_store(results, store)
    released = _released_files(entry, selection, results, store)
    manifest = {
        "schema": BUNDLE_SCHEMA,
        "suite": suite.name,
        "terms": entry_terms(entry.part),
        "dataset": entry.dataset,
        "content": entry.content,
        "noises": noises,
        "breaker": breaker,
        **derive_manifest_fields(results),
        "distributions": _hash_distributions([result for result in results if entry.own(result)]),
        "released": {key: content_sha256(file) for key, file in released.items()},
        "submitter": {"name": request.submitter, "contact": request.contact, "paper": request.paper},
    }
    keys = [*sorted(released), *(result.key for result in results)]
    events = [event for key in keys for event in read_job_log(key, store.find(key) or {})]
    check_bundle(Bundle("", manifest, results, events), suite, board, rulings, datetime.now(UTC))
    write_bundle(path, manifest, results, released if request.images else {}, events)
    return SubmissionReport(path, summarise_bundle(read_bundle(path), entry))


def _select(suite: Suite, request: SubmissionRequest) -> Selection:
    """Return the components of the entry; raises `UserError` where the request names more than one entry.

    Several grids of a suite may hold them, as long as all grids mean the same components.
    """
    selections = select_components(
        suite,
        noises=request.noises,
        breakers=request.breakers,
        datasets=request.datasets,
        protected=[1.0],
        kind="mixed",
    )
    labels = {"dataset": {component_label(source) for selection in selections for source in selection.sources}}
    if request.breakers:
        chains = [chain for selection in selections for chain in selection.chains]
        labels["breaker"] = {"+".join(map(component_label, chain)) for chain in chains}
    for kind, names in labels.items():
        if len(names) != 1:
            listed = ", ".join(sorted(names))
            raise UserError(f"a submission is of one {kind}, not {len(names)}: {listed}; say which with --{kind}")
    ranked = resolve_recipe(suite.part(selections[0].sources[0].name))
    matching = [selection for selection in selections if selection.recipe == ranked]
    if not matching:
        raise UserError(
            f"suite {suite.name} runs this by the recipe {component_label(selections[0].recipe)}; entries are judged "
            f"by that of the first grid with this data set, {component_label(ranked)}"
        )
    if len({tuple(selection.noises) for selection in matching}) > 1:
        texts = sorted({component_label(noise) for selection in matching for noise in selection.noises})
        raise UserError(f"grids of suite {suite.name} mean different noises: {'; '.join(texts)}; give every parameter")
    return matching[0]


def _released_files(entry: Entry, selection: Selection, results: Sequence[Result], store: Store) -> dict[str, Path]:
    """Return the files of released images by the key of their job; raises `UserError` where the store lacks one."""
    files: dict[str, Path] = {}
    for noise in selection.noises:
        for seed in sorted({result.seed for result in results if result.parameters["noise"] == canonical_text(noise)}):
            job = plan_protect(selection.sources[0], entry.content, noise, selection.recipe, seed)
            finished = store.find(job.key)
            if finished is None:
                name = job_name(selection, job)
                raise UserError(
                    f"the store {store.root} has no result of {name}; give the folder of your store with --store"
                )
            files[job.key] = finished["released.safetensors"]
    return files


def _check_store(results: Sequence[Result], store: Store) -> None:
    """Raise `UserError` for a result that is not in the store with the same numbers."""
    for result in results:
        stored = store.read(result.key, "result.json")
        name = f"{result.noise} / {result.breaker} on {result.target}, seed {result.seed}"
        if stored is None:
            raise UserError(f"the store {store.root} has no result of {name}; run it again")
        if not result.equals_stored(stored):
            raise UserError(f"the store {store.root} has other numbers of {name} than your record; run it again")


def _hash_distributions(results: Sequence[Result]) -> list[dict[str, str]]:
    """Return name, version and hash of every distribution that took part.

    Raises `UserError` where another version is installed here.
    """
    used: set[tuple[Any, Any]] = {pair for result in results for pair in result.made_with.get("plugins", {}).items()}
    hashed = []
    for name, version in sorted(used):
        installed = hash_distribution(name)
        if installed and installed[0] != version:
            raise UserError(f"results were made with {name} {version}; {installed[0]} is installed here")
        if installed:
            hashed.append({"name": name, "version": version, "sha256": installed[1]})
    return hashed
