"""What the tests of bundles share: results made up for a suite, a bundle of them, and ways to spoil one."""

from __future__ import annotations

import copy
import csv
import hashlib
import json
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.conftest import TINY
from uebench.board.publish import label_result
from uebench.board.records import own_folder
from uebench.components.registry import registry
from uebench.components.spec import canonical_text
from uebench.planning.plan import Cell, cell_identity, content_key, plan_selection
from uebench.planning.selection import Selection, select_components
from uebench.planning.suite_file import read_suite
from uebench.storage.result import CurvePoint, Result
from uebench.storage.results_file import write_results
from uebench.storage.store import Store
from uebench.submission.bundle import Bundle, write_bundle
from uebench.submission.entry import derive_manifest_fields, entry_terms

SUITE = read_suite(str(TINY))
IMAGES = 1400
ACCURACIES = {"none": (1331, 1051), "em": (281, 981), "rem": (351, 701)}
"""Test images right under `none` and under an attack, of seed 0; each seed is 7 images better than the one before."""
DATASET = canonical_text(registry().build("dataset", "digits", SUITE.defaults))
SUBMITTER = {"name": "Ada Example", "contact": "ada@example.org", "paper": "https://example.org/paper"}


def record(selection: Selection, cell: Cell, right: int) -> Result:
    """Return a record of a cell with so many test images right, possible in every respect."""
    changed, accuracy = cell.protect.noise.name != "none", right / IMAGES
    curve = [CurvePoint(step, accuracy, 0.5) for step in (15, 30, 45, 60)]
    one = Result(
        key=cell.key,
        **dict.fromkeys(("suite", "dataset", "noise", "breaker", "target", "recipe"), ""),  # type: ignore[arg-type]
        parameters={},
        protected=1.0,
        kind="mixed",
        seed=cell.protect.seed,
        test_accuracy=accuracy,
        train_accuracy=0.5,
        best_test_accuracy=accuracy,
        curve=curve,
        noise_linf=32 / 255 if changed else 0.0,
        noise_l2=1.0 if changed else 0.0,
        psnr=20.0 if changed else None,
        ssim=0.9 if changed else 1.0,
        noise_seconds=1.0,
        train_seconds=2.0,
        peak_bytes=None,
        flags=[],
        made_with={"device": "a processor", "uebench": "0.1.0", "torch": "2.15.0", "plugins": {"uebench": "0.1.0"}},
        finished="2026-01-01T00:00:00+00:00",
    )
    return label_result(selection, cell, one)


def results(
    *noises: str, seeds: Iterable[int] = range(3), breakers: Sequence[str] = (), right: Mapping[str, int] | None = None
) -> list[Result]:
    """Return what a run of these noises leaves: themselves and the clean set, under these breakers or the suite's."""
    (selection,) = select_components(SUITE, noises=noises, breakers=breakers, seeds=list(seeds))
    nothing, plain = registry().build("noise", "none"), registry().build("breaker", "none")
    cells = plan_selection(selection, nothing, (plain,), [""]).cells  # type: ignore[arg-type]
    if breakers:  # the plain ones are on record already
        cells = [cell for cell in cells if cell.chain != (plain,)]
    found = []
    for cell in cells:
        usual = ACCURACIES[cell.protect.noise.name][cell.chain[0].name != "none"]
        count = (right or {}).get(cell.protect.noise.name, usual)
        found.append(record(selection, cell, count + 7 * cell.protect.seed))
    return sorted(found, key=lambda one: one.key)


def noise_text(name: str) -> str:
    """Return the canonical text of a noise of the suite."""
    return canonical_text(registry().build("noise", name, SUITE.defaults))


def manifest(found: Sequence[Result], *noises: str, breaker: str = "") -> dict[str, Any]:
    """Return a manifest that is right for these results."""
    texts = [noise_text(name) for name in noises]
    seeds = {one.seed for one in found}
    return {
        "schema": 1,
        "suite": SUITE.name,
        "terms": entry_terms(SUITE),
        "dataset": DATASET,
        "content": "",
        "noises": texts,
        "breaker": breaker,
        **derive_manifest_fields(found),
        "distributions": [{"name": "uebench", "version": "0.1.0", "sha256": "0" * 64}],
        "released": {digest(f"{text}{seed}")[:32]: "0" * 64 for text in texts for seed in seeds},
        "submitter": SUBMITTER,
    }


def logged(one: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the lines of a log that is right for a result, whose network was begun twice."""
    made = {"device": one["made_with"]["device"], "threads": 1, "torch": "2.15.0", "uebench": "0.1.0"}
    steps = [{"event": "step", "step": step, "of": 60, "loss": 0.5} for step in (15, 60)]
    events = [{"event": "started", **made}, steps[0], {"event": "started", **made}, {"event": "resumed", "step": 9}]
    tested = {"event": "tested", **{name: one[name] for name in ("test_accuracy", "train_accuracy")}}
    return [{"key": one["key"], "time": "2026-01-01T00:00:00+00:00", **event} for event in (*events, steps[1], tested)]


def handed_in(path: Path, found: Sequence[Result], *noises: str, breaker: str = "") -> Path:
    """Write a bundle of results as `uebench submit` does."""
    write_bundle(path, manifest(found, *noises, breaker=breaker), found, {})
    return path


def in_memory(found: Sequence[Result], says: Mapping[str, Any]) -> Bundle:
    return Bundle("0" * 64, says, sorted(found, key=lambda one: one.key))


def put_on_board(boards: Path, found: Iterable[Result]) -> Path:
    """Write a record, and return its folder."""
    folder = boards / SUITE.name
    write_results(folder / "results.jsonl", {one.key: one for one in found})
    return folder


def put_in_store(store: Path, found: Iterable[Result], suite: str = SUITE.name) -> None:
    """Write results as a run leaves them: each in the store, and all in the user's own record."""
    found = list(found)
    for one in found:
        Store(store).save(one.key, {"result.json": one.line().encode()})
    write_results(own_folder(store, suite) / "results.jsonl", {one.key: one for one in found})


def digest(text: str | bytes) -> str:
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()


def contents(folder: Path) -> dict[Path, bytes]:
    """Return every file below a folder."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def usual(name: str) -> zipfile.ZipInfo:
    """Return how a bundle enters a member, by code of our own."""
    one = zipfile.ZipInfo(name)
    one.create_system, one.external_attr = 3, 0o600 << 16
    return one


def zipped(path: Path, members: Mapping[str, bytes], **fields: Any) -> Path:
    """Write members as a bundle has them; `fields` are set on every member."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted(members):
            one = usual(name)
            for field, value in fields.items():
                setattr(one, field, value)
            archive.writestr(one, members[name])
    return path


class Forger:
    """Makes bundles that are right but for one thing: what is changed is hashed and entered as it should be."""

    def __init__(self, path: Path, board: Sequence[Result]) -> None:
        self.path = path
        self.results = [json.loads(one.line()) for one in board]
        self.manifest: dict[str, Any] = copy.deepcopy(manifest(board, "em"))
        self.images: dict[str, bytes] = {}
        self.log: list[dict[str, Any]] = []

    def each(self, change: Callable[[dict[str, Any]], object], key: bool = True, noise: str | None = None) -> None:
        """Change every result, or those of a noise; keys follow unless told otherwise."""
        for one in self.results:
            if noise in (None, one["noise"]):
                change(one)
                if key:
                    values = (one["parameters"], one["protected"], one["kind"], one["seed"])
                    one["key"] = content_key(cell_identity(*values))
        self.results.sort(key=lambda one: str(one["key"]))
        self.manifest["keys"] = [one["key"] for one in self.results]
        self.manifest["seeds"] = sorted({one["seed"] for one in self.results})

    def members(self, says: bytes | None = None, lines: bytes | None = None) -> dict[str, bytes]:
        """Return the members, or these bytes in their place, with the right hashes."""
        if lines is None:
            lines = b"".join(json.dumps(one, ensure_ascii=False).encode() + b"\n" for one in self.results)
        log = b"".join(json.dumps(one, ensure_ascii=False).encode() + b"\n" for one in self.log)
        others = {"results.jsonl": lines, **({"log.jsonl": log} if log else {}), **self.images}
        listed = {name: {"bytes": len(one), "sha256": digest(one)} for name, one in others.items()}
        written = json.dumps({"members": listed, **self.manifest}, ensure_ascii=False).encode(errors="surrogateescape")
        return {"manifest.json": written if says is None else says, **others}

    def write(self, says: bytes | None = None, lines: bytes | None = None, **fields: Any) -> bytes:
        """Write the bundle and return its bytes."""
        return zipped(self.path, self.members(says, lines), **fields).read_bytes()


Change = Callable[[dict[str, Any]], object]
EM, REM, CLEAN = noise_text("em"), noise_text("rem"), "none@1"
BREAKER = "adv-linf:radius=1/255"
(CHALLENGER,) = {one.parameters["breaker"] for one in results("em", breakers=[BREAKER])}
VERIFY = ("verify", "em.zip", "--suite", str(TINY))
ACCEPT = ("accept", "em.zip", "--suite", str(TINY))


def set_to(**fields: Any) -> Change:
    return lambda one: one.update(fields)


def renamed(text: str, label: str | None = None) -> Callable[[Forger], None]:
    """Hand in em under another canonical text, and another label."""

    def change(one: Forger) -> None:
        one.manifest["noises"] = [text]
        one.each(lambda result: result["parameters"].update(noise=text), noise="em")
        one.each(lambda result: result.update(noise=label or "em"), noise="em")

    return change


def accuracy(value: float) -> Change:
    """Set the accuracy of a record wherever it stands."""

    def change(one: dict[str, Any]) -> None:
        one.update(test_accuracy=value, best_test_accuracy=value)
        for point in one["curve"]:
            point["test_accuracy"] = value

    return change


OTHER = "mine@1:radius=0.12549019607843137"


def row(folder: Path, noise: str) -> dict[str, str]:
    return next(one for one in csv.DictReader((folder / "noises.csv").open()) if one["noise"] == noise)


def challenge(path: Path, right: int, *noises: str, seeds: range = range(3)) -> Path:
    """Hand in a breaker under which so many test images are right for each noise, and 1051 on the clean set."""
    found = results(*noises, seeds=seeds, breakers=[BREAKER], right=dict.fromkeys(noises, right))
    return handed_in(path, found, *noises, breaker=CHALLENGER)
