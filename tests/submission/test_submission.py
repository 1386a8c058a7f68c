"""What must hold of a bundle, who is refused and in which words, and how boards and their history change."""

from __future__ import annotations

import csv
import json
import math
import re
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from msgspec import structs

import uebench
from tests.conftest import TINY
from tests.plugins.test_contract import pictures
from tests.submission.factory import (
    IMAGES,
    SUBMITTER,
    SUITE,
    Forger,
    contents,
    digest,
    handed_in,
    logged,
    manifest,
    noise_text,
    put_on_board,
    record,
    results,
)
from uebench import UserError
from uebench.board.formats import csv_table, latex_table, markdown_table
from uebench.cli.console import make_console, print_line, print_table
from uebench.cli.main import main
from uebench.components.registry import RegisteredComponent, registry
from uebench.components.spec import canonical_text
from uebench.executors.settings import ExecutionSettings
from uebench.jobs.datasets import content_fingerprint
from uebench.planning.plan import Cell, plan_selection
from uebench.planning.selection import Selection, select_components
from uebench.planning.suite_file import read_suite
from uebench.storage.history import read_history
from uebench.storage.result import Result
from uebench.storage.results_file import read_results, write_results
from uebench.storage.store import Store
from uebench.submission import distribution_hash, submit
from uebench.submission.agreement import Agreement, count_test_images, run_deviation
from uebench.submission.bundle import read_bundle, write_bundle
from uebench.submission.decisions import accept_entry
from uebench.submission.entry import Entry, entry_from_bundle
from uebench.submission.manifest import Manifest
from uebench.submission.reports import RerunReport, VerificationReport, summarise_bundle
from uebench.submission.rerun import draw_sample, prepare_rerun
from uebench.submission.restore_components import NotInstalled, restore_chain, restore_component
from uebench.submission.verify import VerificationSettings

Change = Callable[[dict[str, Any]], object]
EM, REM, CLEAN = noise_text("em"), noise_text("rem"), "none@1"
BREAKER = "adv-linf:radius=1/255"
(CHALLENGER,) = {one.parameters["breaker"] for one in results("em", breakers=[BREAKER])}


@pytest.fixture(scope="module")
def em() -> list[Result]:
    return results("em")


@pytest.fixture
def references(em: list[Result]) -> list[Result]:
    return [one for one in em if one.noise == "none"]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Call a command in the folder of the test; returns what it printed, after checking the status."""
    monkeypatch.chdir(tmp_path)

    def command(*words: str, status: int = 0) -> str:
        done = CliRunner().invoke(main, words)
        assert done.exit_code == status, done.output
        assert "Traceback" not in done.output
        return done.output

    return command


@pytest.fixture
def refuse(call: Callable[..., str], tmp_path: Path) -> Callable[..., None]:
    """Call a command that must refuse, in one line behind what it told so far, and change nothing but the store."""

    def kept() -> dict[Path, bytes]:
        return {path: text for path, text in contents(tmp_path).items() if ".uebench" not in path.parts}

    def command(*words: str, expected: str, told: bool = False) -> None:
        before = kept()
        *others, line = call(*words, status=2).splitlines()
        assert bool(others) == told, others
        assert line.startswith("Error: ")
        assert expected in line
        assert line.isprintable()
        assert kept() == before

    return command


VERIFY = ("verify", "em.zip", "--suite", str(TINY))
ACCEPT = ("accept", "em.zip", "--suite", str(TINY))


def test_a_bundle_that_holds_is_valid_and_leaves_nothing_behind(
    em: list[Result], references: list[Result], call: Callable[..., str], tmp_path: Path
) -> None:
    handed_in(tmp_path / "em.zip", em, "em")
    put_on_board(tmp_path / "leaderboards", references)
    before = contents(tmp_path)
    output = call(*VERIFY)
    assert "entry     noise em on digits in suite tiny, by Ada Example" in output
    assert "cells     12 results, 6 of the entry itself, seeds 0, 1, 2\n" in output
    assert "6 references are on the board, at most 0.0 standard deviations apart" in output
    assert output.endswith("badge     valid\n")
    assert contents(tmp_path) == before


def test_a_provisional_bundle_is_valid_and_says_so(call: Callable[..., str], tmp_path: Path) -> None:
    handed_in(tmp_path / "em.zip", results("em", seeds=[0]), "em")
    assert "seeds 0; provisional, a rank needs 3 seeds" in call(*VERIFY)


def set_to(**fields: Any) -> Change:
    return lambda one: one.update(fields)


def noted(place: int, **fields: Any) -> Callable[[Forger], None]:
    """Change a line of the log."""

    def change(one: Forger) -> None:
        one.log = logged(one.results[0])
        one.log[place].update(fields)

    return change


def inside(part: str, **fields: Any) -> Change:
    return lambda one: one[part].update(fields)


def each(change: Change, key: bool = True, noise: str | None = None) -> Callable[[Forger], None]:
    """Change all results, or those of a noise; keys follow unless told otherwise."""
    return lambda one: one.each(change, key, noise)


def first(change: Change, noise: str = "em") -> Callable[[Forger], None]:
    """Change the first result of a noise, its key not."""
    return lambda one: change(next(result for result in one.results if result["noise"] == noise))


def says(**fields: Any) -> Callable[[Forger], None]:
    return lambda one: one.manifest.update(fields)


def within(part: str, **fields: Any) -> Callable[[Forger], None]:
    return lambda one: one.manifest[part].update(fields)


def only(keep: Callable[[dict[str, Any]], bool]) -> Callable[[Forger], None]:
    """Leave results out."""

    def change(one: Forger) -> None:
        one.results = [result for result in one.results if keep(result)]
        one.each(lambda result: None)

    return change


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


def named(label: str, kind: str = "noise") -> tuple[Callable[[Forger], None], str]:
    return each(
        set_to(**{kind: label}), noise="em"
    ), f"{label[:60]!r} is not a label of at most 300 letters, digits and"


def surplus(one: Forger) -> None:
    """Add cells of a breaker that nobody asked for."""
    more = [json.loads(result.line()) for result in results("em", breakers=[BREAKER])]
    one.results += [result for result in more if result["noise"] == "em"]
    one.each(lambda result: None)


def misnamed(one: Forger) -> None:
    one.results[0]["key"] = "<b>"
    one.results.sort(key=lambda result: str(result["key"]))


def other_seed(seed: int) -> Callable[[Forger], None]:
    return each(lambda one: one.update(seed=seed if one["seed"] == 0 else one["seed"]))


def begun(one: Forger) -> None:
    one.log = logged(one.results[0])[1:]


def second_noise(one: Forger) -> None:
    one.manifest["noises"] = [EM, REM]


OTHER = "mine@1:radius=0.12549019607843137"
TEXT = "is not the canonical text of a noise"
HOSTILE: dict[str, tuple[Callable[[Forger], None], str]] = {
    "another suite": (says(suite="demo"), "the bundle is of suite 'demo', not of 'tiny'"),
    "a path for a suite": (says(suite="../../x.toml"), "the bundle is of suite '../../x.toml', not of 'tiny'"),
    "results of another suite": (first(set_to(suite="demo")), "is of suite 'demo', not of 'tiny'"),
    "another recipe": (
        within("terms", recipe="sgd@1:steps=9"),
        "another version of suite tiny: recipe 'sgd@1:steps=9'",
    ),
    "another engine": (within("terms", numbers=99), "another version of suite tiny: numbers 99, here"),
    "another floor": (within("terms", floor=0.0), "another version of suite tiny: floor 0.0, here 0.5"),
    "fewer breakers": (within("terms", breakers=["none@1"]), "another version of suite tiny: breakers ['none@1']"),
    "an unknown data set": (says(dataset="digit@1"), "suite tiny has no data set 'digit'; did you mean digits?"),
    "another data set of the name": (
        says(dataset="digits@1:contrast=1.0,test_images=1400,pad=1"),
        "data set 'digits@1:contrast=1.0,test_images=1400,pad=1' is not that of suite tiny",
    ),
    "a text that is no data set": (says(dataset="<b>"), "'<b>' is not the canonical text of a dataset"),
    "other data": (lambda one: other_data(one), "the bundle is of other data: content 'abc', on the board ''"),
    "no noise": (says(noises=[]), "the bundle names no noise, one twice, or the clean set"),
    "the clean set as a noise": (says(noises=[CLEAN]), "the bundle names no noise, one twice, or the clean set"),
    "two noises at once": (second_noise, "the bundle hands in 2 noises at once; an entry is of one"),
    "a noise without a version": (renamed("mine:radius=0.1"), f"'mine:radius=0.1' {TEXT}"),
    "a noise of HTML": (renamed("<script>@1"), f"'<script>@1' {TEXT}"),
    "a noise of a formula": (renamed("=cmd()@1"), f"'=cmd()@1' {TEXT}"),
    "a noise with a parameter twice": (renamed("mine@1:a=1,a=2"), "a is given twice in 'mine:a=1,a=2'"),
    "a noise with open parentheses": (renamed("mine@1:a=(b"), "unbalanced parentheses in 'a=(b'"),
    "a required breaker": (says(breaker="none@1"), "breaker none is required in suite tiny; hand in the noise instead"),
    "a breaker that is none": (says(breaker="a b@1"), "'a b@1' is not the canonical text of a breaker"),
    "no submitter": (within("submitter", name="  "), "the bundle names no submitter"),
    "a submitter without end": (within("submitter", name="x" * 201), "the submitter's name: a text of 201 characters"),
    "a paper that is a program": (within("submitter", paper="javascript:alert(1)"), "not 'javascript:alert(1)'"),
    "a plug-in that took no part": (
        says(distributions=[{"name": "evil", "version": "1", "sha256": "0" * 64}]),
        "no result was made with evil '1'",
    ),
    "a plug-in that is a path": (
        says(distributions=[{"name": "../x", "version": "1", "sha256": "0" * 64}]),
        "'../x' with SHA-256 '0000000000000000",
    ),
    "a noise without hash": (says(released={}), "0 released noises for 1 noises and 3 seeds"),
    "a hash that is none": (says(released={"0" * 32: "x"}), "a released noise goes by a key of 32 digits"),
    "other seeds in the manifest": (says(seeds=[0]), "the manifest's seeds are not those of the results"),
    "other keys in the manifest": (says(keys=[]), "the manifest's keys are not those of the results"),
    "other devices in the manifest": (
        within("made_with", device=["a better one"]),
        "the manifest's made_with are not those of the results",
    ),
    "a key that does not follow": (each(inside("parameters", noise=REM), key=False), "the key does not follow from"),
    "a key of HTML": (misnamed, "result '<b>': the key does not follow from the parameters"),
    "no results": (only(lambda one: False), "the entry lacks "),
    "a cell missing": (
        only(lambda one: (one["noise"], one["breaker"], one["seed"]) != ("em", "adv-linf", 1)),
        "the entry lacks em / adv-linf / smallcnn seed 1",
    ),
    "a reference missing": (
        only(lambda one: (one["noise"], one["breaker"]) != ("none", "adv-linf")),
        "the entry lacks none / adv-linf / smallcnn seed 0; none / adv-linf / smallcnn seed 1",
    ),
    "a cell too many": (surplus, f"the bundle holds em / {BREAKER} / smallcnn, which the entry does not need"),
    "an unknown target": (
        each(lambda one: (inside("parameters", target="big@1")(one), one.update(target="big")), noise="em"),
        " / big, which the entry does not need",
    ),
    "an unknown recipe": (each(inside("parameters", recipe="sgd@1")), "has recipe 'sgd@1', the entry 'sgd@1:steps=60"),
    "chosen seeds": (
        only(lambda one: one["seed"] != 0),
        "seeds must be 0, 1, 2 and so on, so that nobody chooses them",
    ),
    "a seed out of range": (other_seed(2**32), "Expected `int` <= 4294967295 - at `$.seed`"),
    "a seed below 0": (other_seed(-1), "Expected `int` >= 0 - at `$.seed`"),
    "a share": (each(set_to(protected=0.5)), "is of a share of 0.5 ('mixed'), not of a wholly protected set"),
    "another kind": (each(set_to(kind="<i>")), "Invalid enum value '<i>' - at `$.kind`"),
    "a label of HTML": named("<img src=x onerror=alert(1)>"),
    "a label of a formula": named('=HYPERLINK("x")'),
    "a label of LaTeX": named(r"\input{x}"),
    "a label of markdown": named("[best](https://example.org)"),
    "a label of terminal markup": named("[red]em[/]"),
    "a label with a cell more": named("em | 99"),
    "no label": named(""),
    "a label without end": named("x" * 301),
    "a data set's label of HTML": named("<b>digits</b>", "dataset"),
    "another name for a noise": (each(set_to(noise="super"), noise="em"), "calls a noise 'super' that is called 'em'"),
    "the name of another noise": (renamed(OTHER, "none"), "calls a noise 'none', which is the name of another"),
    "two names for a noise": (
        lambda one: (renamed(OTHER, "mine")(one), first(set_to(noise="yours"), "mine")(one)),  # type: ignore[dict-item]
        "calls a noise 'mine' that is called 'yours'",
    ),
    "another name for a breaker": (first(set_to(breaker="weak")), "calls a breaker 'weak' that is called"),
    "another name for the recipe": (each(set_to(recipe="fast")), "calls a recipe 'fast' that is called 'sgd:steps=60"),
    "a parameter that it has not": (renamed(f"{EM},evil=1"), "noise em has no parameter 'evil'"),
    "a parameter that it lacks": (renamed("em@1:radius=0.12549019607843137"), "noise em lacks surrogate in 'em@1:"),
    "a parameter out of range": (
        renamed(EM.replace("steps=12", "steps=0")),
        "em: steps must be at least 1, not 0",
    ),
    "a parameter written otherwise": (renamed(EM.replace("steps=12", "steps=012")), "is not how it is written"),
    "a number that takes for ever": (
        renamed(EM.replace("lr=0.1", "lr=1e99999999/3")),
        "noise em: lr must be a decimal number, not '1e99999999/3'",
    ),
    "a path to be read": (
        renamed("file@1:path=/dev/zero,content=,radius=0.12549019607843137,norm=linf,kind=auto,tensor="),
        "is not a parameter: expected key=value",
    ),
    "a path to be read, well written": (
        renamed("file@1:path=/dev/zero,radius=0.12549019607843137"),
        "noise file: path is not part of a canonical text",
    ),
    "a noise over its radius": (
        renamed("mine@1:radius=0.0313725490196078", "mine"),
        "noise_linf 32/255 is over the radius",
    ),
    "a noise without a radius": (renamed("mine@1", "mine"), "radius must be a number"),
    "no whole steps": (first(set_to(noise_linf=0.1)), "noise_linf 0.1 is not a whole number of steps of 1/255"),
    "a noise beyond the pixels": (first(set_to(noise_linf=2.0)), "Expected `float` <= 1.0 - at `$.noise_linf`"),
    "a clean set that is changed": (
        first(set_to(noise_linf=1 / 255, noise_l2=1.0, psnr=50.0), "none"),
        "noise_linf 1/255 is over the radius 0",
    ),
    "a noise without a trace": (first(set_to(psnr=None)), "noise_linf, noise_l2, psnr and ssim contradict each other"),
    "a PSNR too low": (first(set_to(psnr=10.0)), "a PSNR of 10 dB is below what noise_linf 0.12549 allows"),
    "a norm of its own": (first(set_to(noise_norm="l7")), "there is no norm 'l7'"),
    "two noises under one seed": (first(set_to(psnr=21.0)), "differ in what they measured of the noise"),
    "a made-up accuracy": (first(accuracy(0.123456789)), "test accuracy 0.123456789 counts no whole images"),
    "accuracies of no common test set": (first(accuracy(1 / 999_983)), "counts no whole images of a test set"),
    "an end that is not the curve's": (first(set_to(test_accuracy=0.5)), "test_accuracy is 0.5"),
    "a best that is not the curve's": (
        first(set_to(best_test_accuracy=1.0)),
        "best_test_accuracy 1.0 is not the highest",
    ),
    "a curve of other steps": (first(lambda one: one["curve"].pop()), "the curve is of the steps [15, 30, 45], not of"),
    "a curve out of range": (
        first(lambda one: one["curve"][0].update(train_accuracy=1.5)),
        "Expected `float` <= 1.0 - at `$.curve[0].train_accuracy`",
    ),
    "a curve with more in it": (
        first(lambda one: one["curve"][0].update(script="x")),
        "unknown field `script` - at `$.curve[0]`",
    ),
    "an accuracy out of range": (first(set_to(test_accuracy=1.5)), "Expected `float` <= 1.0 - at `$.test_accuracy`"),
    "a parameter more": (
        first(inside("parameters", script="x")),
        "parameters must be of breaker, content,",
    ),
    "a flag of HTML": (first(set_to(flags=["<b>"])), "'<b>' is not a flag"),
    "flags that are no list": (first(set_to(flags="diverged")), "Expected `array`, got `str` - at `$.flags`"),
    "a PSNR of text": (first(set_to(psnr="high")), "Expected `float | null`, got `str` - at `$.psnr`"),
    "no device": (
        first(lambda one: one["made_with"].pop("device")),
        "missing required field `device`",
    ),
    "a device that is a table": (
        first(inside("made_with", device={})),
        "Expected `str`, got `object` - at `$.device`",
    ),
    "something else in made_with": (
        first(inside("made_with", more=[1])),
        "made_with: Expected `bool | int | str",
    ),
    "a record with more in it": (
        first(set_to(script="x")),
        "line 1: Object contains unknown field `script`",
    ),
    "less than no time": (
        first(set_to(train_seconds=-1.0)),
        "Expected `float` >= 0.0 - at `$.train_seconds`",
    ),
    "a future": (first(set_to(finished="2999-01-01T00:00:00+00:00")), "is in the future"),
    "a time of nowhere": (first(set_to(finished="2026-01-01T00:00:00")), "has no time zone"),
    "no time": (first(set_to(finished="soon")), "finished must be a date and time, not 'soon'"),
    "a log of no job": (noted(0, key="0" * 32), "the log of '00000000000000000000000000000000' is of no job"),
    "a log of HTML": (noted(0, key="<b>"), "the log of '<b>' is of no job of the bundle"),
    "a log without a beginning": (begun, "does not begin with a start"),
    "a log of another device": (noted(2, device="a better one"), "is of 'a better one', the result of 'a processor'"),
    "a log of other steps": (noted(1, of=99), "is at step 15 of 99; a network is trained for 60"),
    "a log beyond the end": (noted(1, step=61), "is at step 61 of 60; a network is trained for 60"),
    "a log of no time": (noted(1, time="noon"), "'noon' is no time"),
    "a log of nowhere": (noted(1, time="2026-01-01T00:00:00"), "'2026-01-01T00:00:00' has no time zone"),
    "a log of the future": (noted(1, time="2999-01-01T00:00:00+00:00"), "'2999-01-01T00:00:00+00:00' is in the"),
    "a log of an unknown event": (noted(1, event="shell"), "log.jsonl line 2: Invalid value 'shell' - at `$.event`"),
    "a log with more in it": (noted(1, script="x"), "log.jsonl line 2: Object contains unknown field `script`"),
    "a log with an escape": (noted(0, device="\x1b[2J"), "log.jsonl line 1 holds a character that does not show"),
    "references that differ": (each(accuracy(0.5), noise="none"), "0.5000 claimed, 0."),
}


def other_data(one: Forger) -> None:
    one.manifest["content"] = "abc"
    one.each(inside("parameters", content="abc"))


@pytest.mark.parametrize("case", HOSTILE)
def test_a_bundle_that_does_not_hold_is_refused_in_its_own_words_and_nothing_is_written(
    case: str, em: list[Result], references: list[Result], refuse: Callable[..., None], tmp_path: Path
) -> None:
    put_on_board(tmp_path / "leaderboards", references)
    forger = Forger(tmp_path / "em.zip", em)
    change, expected = HOSTILE[case]
    change(forger)
    forger.write()
    refuse(*VERIFY, "--rerun", "1", expected=expected)
    refuse(*ACCEPT, expected=expected)


def test_every_refusal_has_words_of_its_own() -> None:
    words = [expected for _, expected in HOSTILE.values()]
    assert len(HOSTILE) > 90
    assert {one for one in words if words.count(one) > 1} == {"the bundle names no noise, one twice, or the clean set"}


def test_the_forger_makes_a_bundle_that_holds_when_nothing_is_changed(
    em: list[Result], call: Callable[..., str], tmp_path: Path
) -> None:
    """Otherwise every refusal above might have another reason."""
    forger = Forger(tmp_path / "em.zip", em)
    forger.write()
    output = call(*VERIFY)
    assert "log       of 0 of 12 results\n" in output
    assert output.endswith("badge     valid\n")
    forger.log = [*logged(forger.results[0]), *logged(forger.results[3])]
    forger.write()
    output = call(*VERIFY)
    assert "log       of 2 of 12 results\n" in output
    assert output.endswith("badge     valid\n")


def test_a_suite_is_found_by_its_name_alone_never_by_a_path(
    em: list[Result], refuse: Callable[..., None], tmp_path: Path
) -> None:
    (tmp_path / "tiny.toml").write_text(TINY.read_text())
    for name in ("tiny", "tiny.toml", "./tiny.toml"):
        forger = Forger(tmp_path / "em.zip", em)
        forger.manifest["suite"] = name
        forger.write()
        refuse("verify", "em.zip", expected=f"unknown suite {name!r}")


def test_a_device_that_is_not_there_is_refused_before_a_bundle_is_looked_at(
    em: list[Result], refuse: Callable[..., None], tmp_path: Path
) -> None:
    Forger(tmp_path / "em.zip", em).write()
    refuse(*VERIFY, "--rerun", "1", "--device", "cuda:99", expected="no device 'cuda:99' here")


def test_a_noise_that_is_not_installed_is_valid_and_cannot_be_run_again(
    em: list[Result], call: Callable[..., str], tmp_path: Path
) -> None:
    forger = Forger(tmp_path / "em.zip", em)
    renamed(OTHER, "mine")(forger)
    forger.write()
    assert call(*VERIFY).endswith("badge     valid\n")
    output = call(*VERIFY, "--rerun", "9", status=1)
    assert "re-run    not possible: noise mine is not installed here" in output
    assert output.endswith("badge     valid\n")
    assert not (tmp_path / "leaderboards").exists()
    call(*ACCEPT, "--rerun", "9", status=1)
    assert not (tmp_path / "leaderboards").exists()


def test_references_within_the_spread_pass_and_the_boards_stay(
    em: list[Result], references: list[Result], call: Callable[..., str], tmp_path: Path
) -> None:
    board = [structs.replace(one, test_accuracy=one.test_accuracy - 7 / IMAGES) for one in references]
    folder = put_on_board(tmp_path / "leaderboards", board)
    handed_in(tmp_path / "em.zip", em, "em")
    deviations = re.search(r"at most ([\d.]+) standard", call(*ACCEPT))
    record = read_results(folder / "results.jsonl")
    assert {one.key: record[one.key] for one in board} == {one.key: one for one in board}
    assert len(record) == len(em)
    # by hand, for the clean set under `none`: 1324, 1331 and 1338 of 1400 images right on the board, 7 more handed in
    p = (1331 + 1) / (1400 + 2)
    most = 7 / 1400 / math.sqrt(2 * ((7 / 1400) ** 2 + p * (1 - p) / 1400))
    assert deviations
    assert float(deviations[1]) == pytest.approx(most, abs=0.05)


def row(folder: Path, noise: str) -> dict[str, str]:
    return next(one for one in csv.DictReader((folder / "noises.csv").open()) if one["noise"] == noise)


def test_an_accepted_entry_is_on_the_board_and_in_the_history(
    em: list[Result], call: Callable[..., str], tmp_path: Path
) -> None:
    path, folder = handed_in(tmp_path / "em.zip", em, "em"), tmp_path / "leaderboards" / "tiny"
    output = call(*ACCEPT)
    assert "changed   em: not listed -> ranked, 25.0 (adv-linf)" in output
    assert read_results(folder / "results.jsonl") == {one.key: one for one in em}
    found = row(folder, "em")
    assert (found["rank"], found["status"], found["ruling"]) == ("1", "ranked", "valid")
    assert float(found["residual_protection"]) == pytest.approx((1331 - 981) / 1400, abs=1e-6)
    (line,) = read_history(folder)
    assert (line["event"], line["badge"], line["noises"], line["rerun"]) == ("accepted", "valid", [EM], None)
    assert (line["bundle"], line["submitter"], line["paper"]) == (
        digest(path.read_bytes()),
        SUBMITTER["name"],
        SUBMITTER["paper"],
    )
    assert SUBMITTER["contact"] not in (folder / "history.jsonl").read_text()
    change = next(one for one in line["changes"] if one["noise"] == EM)
    assert (change["old"], change["new"]["residual_protection"]) == (None, pytest.approx(0.25))
    before = contents(tmp_path / "leaderboards")
    call("rank", str(TINY))
    assert contents(tmp_path / "leaderboards") == before, "the board follows from record and history"


def test_nothing_is_accepted_twice(
    em: list[Result], call: Callable[..., str], refuse: Callable[..., None], tmp_path: Path
) -> None:
    handed_in(tmp_path / "em.zip", em, "em")
    call(*ACCEPT)
    refuse(*ACCEPT, expected="this bundle was accepted before, as valid", told=True)
    write_bundle(tmp_path / "other.zip", {**manifest(em, "em"), "submitter": {**SUBMITTER, "name": "Eve"}}, em, {})
    other = ("accept", "other.zip", "--suite", str(TINY))
    refuse(*other, expected="all its results are on record; there is nothing to accept", told=True)


def test_a_conflict_is_refused_and_not_averaged(
    em: list[Result], references: list[Result], refuse: Callable[..., None], tmp_path: Path
) -> None:
    worse = [structs.replace(one, test_accuracy=one.test_accuracy + 7 / IMAGES) for one in em if one.noise == "em"]
    put_on_board(tmp_path / "leaderboards", [*references, *worse])
    handed_in(tmp_path / "em.zip", em, "em")
    refuse(*ACCEPT, expected="other numbers are on record, and nothing is averaged: em / ", told=True)


@pytest.fixture
def listed(em: list[Result], tmp_path: Path) -> Path:
    """Return the folder of a board with em and rem."""
    return put_on_board(tmp_path / "leaderboards", [*em, *results("rem")])


def challenge(path: Path, right: int, *noises: str, seeds: range = range(3)) -> Path:
    """Hand in a breaker under which so many test images are right for each noise, and 1051 on the clean set."""
    found = results(*noises, seeds=seeds, breakers=[BREAKER], right=dict.fromkeys(noises, right))
    return handed_in(path, found, *noises, breaker=CHALLENGER)


def test_a_breaker_lowers_what_is_left_of_a_noise_and_the_old_value_stays_in_the_history(
    listed: Path, call: Callable[..., str], tmp_path: Path
) -> None:
    call("rank", str(TINY))
    assert (row(listed, "rem")["rank"], row(listed, "em")["rank"]) == ("1", "2")
    untouched = row(listed, "em")
    challenge(tmp_path / "em.zip", 1191, "rem")
    output = call(*ACCEPT)
    assert "entry     breaker adv-linf:radius=1/255 against rem on digits" in output
    assert "changed   rem: ranked, 45.0 (adv-linf) -> ranked, 10.0 (adv-linf:radius=1/255)" in output
    found = row(listed, "rem")
    assert float(found["residual_protection"]) == pytest.approx((1331 - 1191) / 1400, abs=1e-6)
    assert (found["worst_breaker"], found["rank"]) == ("adv-linf:radius=1/255", "2")
    assert float(found["same_breaker_gap"]) == pytest.approx((1051 - 1191) / 1400, abs=1e-6)
    assert found["ruling"] == "also against adv-linf:radius=1/255"
    for name in ("residual_protection", "worst_breaker", "same_breaker_gap", "ruling"):
        assert row(listed, "em")[name] == untouched[name], "a noise that was not challenged keeps its value"
    (line,) = read_history(listed)
    (change,) = line["changes"]
    assert change["noise"] == REM
    assert change["old"]["residual_protection"] == pytest.approx(0.45)
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT[\d:]+\+00:00", line["date"])
    assert "also against adv-linf:radius=1/255" in (listed / "README.md").read_text()


def test_a_weaker_breaker_changes_nothing_but_the_remarks(
    listed: Path, call: Callable[..., str], tmp_path: Path
) -> None:
    call("rank", str(TINY))
    before = row(listed, "rem")
    challenge(tmp_path / "em.zip", 141, "rem", "em")
    assert "changed" not in call(*ACCEPT)
    assert {**row(listed, "rem"), "ruling": ""}["residual_protection"] == before["residual_protection"]
    assert read_history(listed)[0]["noises"] == [REM, EM]


def test_new_seeds_of_a_noise_do_not_shake_off_a_breaker(
    listed: Path, call: Callable[..., str], tmp_path: Path
) -> None:
    challenge(tmp_path / "em.zip", 1191, "rem")
    call(*ACCEPT)
    put_on_board(listed.parent, [*read_results(listed / "results.jsonl").values(), *results("rem", seeds=[3])])
    call("rank", str(TINY))
    found = row(listed, "rem")
    assert (found["seeds"], found["worst_breaker"]) == ("4", "adv-linf:radius=1/255")
    clean, broken = 1331 + 7 * (0 + 1 + 2 + 3) / 4, 1191 + 7 * (0 + 1 + 2) / 3
    assert float(found["residual_protection"]) == pytest.approx((clean - broken) / 1400, abs=1e-6)


def test_cells_of_a_breaker_that_nobody_accepted_do_not_count(
    listed: Path, call: Callable[..., str], tmp_path: Path
) -> None:
    more = results("rem", breakers=[BREAKER], right={"rem": 1331})
    put_on_board(listed.parent, [*read_results(listed / "results.jsonl").values(), *more])
    call("rank", str(TINY))
    assert float(row(listed, "rem")["residual_protection"]) == pytest.approx((1331 - 701) / 1400, abs=1e-6)


def test_a_breaker_is_against_listed_noises_on_all_their_seeds(
    listed: Path, references: list[Result], refuse: Callable[..., None], tmp_path: Path
) -> None:
    challenge(tmp_path / "em.zip", 1191, "rem", seeds=range(2))
    refuse(*ACCEPT, expected="noise rem is listed with seeds [0, 1, 2], the bundle has [0, 1]")
    put_on_board(listed.parent, references)
    refuse(*ACCEPT, expected="noise rem is not listed on the board; hand in its entry first")


def test_a_withdrawn_entry_stays_unranked_with_the_reason(
    listed: Path, call: Callable[..., str], refuse: Callable[..., None], tmp_path: Path
) -> None:
    reason = "trained on | <b>test</b> images, see [here](https://example.org) and www.example.org"
    assert "changed   rem: ranked, 45.0 (adv-linf) -> withdrawn, 45.0 (adv-linf)" in call(
        "withdraw", str(TINY), "--noise", "rem", "--reason", reason
    )
    found = row(listed, "rem")
    assert (found["rank"], found["status"], found["ruling"]) == ("", "withdrawn", reason)
    assert float(found["residual_protection"]) == pytest.approx(0.45)
    assert row(listed, "em")["rank"] == "1", "the others move up"
    page = (listed / "README.md").read_text()
    shown = r"withdrawn: trained on \| \<b\>test\</b\> images, see \[here\](https\://example.org) and www\.example.org"
    assert shown in page
    refuse(
        "withdraw", str(TINY), "--noise", "rem", "--reason", "x", expected="noise rem is withdrawn already: trained on"
    )
    challenge(tmp_path / "em.zip", 1191, "rem")
    refuse(*ACCEPT, expected="noise rem is withdrawn: trained on")


def test_a_corrected_noise_comes_back_under_a_raised_version_with_its_old_name(
    em: list[Result], call: Callable[..., str], tmp_path: Path
) -> None:
    for version in (1, 2):
        forger = Forger(tmp_path / "em.zip", em)
        renamed(OTHER.replace("@1", f"@{version}"), "mine")(forger)
        forger.write()
        call(*ACCEPT)
        if version == 1:
            call("withdraw", str(TINY), "--noise", "mine", "--reason", "a mistake")
    statuses = [one["status"] for one in csv.DictReader((tmp_path / "leaderboards/tiny/noises.csv").open())]
    assert sorted(statuses) == ["ranked", "reference", "withdrawn"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--noise", "remm", "--reason", "x"), "suite tiny lists no noise 'remm'; did you mean rem?"),
        (("--noise", "none", "--reason", "x"), "suite tiny lists no noise 'none'"),
        (("--noise", "rem", "--reason", " "), "a withdrawal needs a reason"),
        (("--noise", "rem", "--reason", "a\x1b[2J"), "the reason holds a character that does not show: '\\x1b'"),
        (("--noise", "rem", "--reason", "x" * 301), "the reason: a text of 301 characters; at most 300"),
    ],
)
def test_a_withdrawal_names_a_listed_noise_and_a_reason(
    words: tuple[str, ...], expected: str, listed: Path, refuse: Callable[..., None]
) -> None:
    refuse("withdraw", str(TINY), *words, expected=expected)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{", "history.jsonl line 1 is no JSON"),
        ("[]", "history.jsonl line 1: Expected `object`, got `array`"),
        ('{"event": "raised"}', "history.jsonl line 1: Invalid value 'raised' - at `$.event`"),
        ('{"event": "withdrawn"}', "history.jsonl line 1: Object missing required field"),
    ],
)
def test_a_broken_history_is_reported(line: str, expected: str, listed: Path, refuse: Callable[..., None]) -> None:
    (listed / "history.jsonl").write_text(line + "\n")
    refuse("rank", str(TINY), expected=expected)


def test_what_would_not_be_valid_is_not_packed(em: list[Result], refuse: Callable[..., None], tmp_path: Path) -> None:
    def submit(*words: str) -> list[str]:
        return ["submit", str(TINY), "--into", "x.zip", "--name", "Ada", *words]

    lacking = "the entry lacks em / adv-linf / smallcnn seed 0; em / none / smallcnn seed 0; none / adv-linf / smallcnn"
    refuse(*submit("--noise", "em"), expected=lacking)
    put_on_board(tmp_path / "leaderboards", [one for one in em if one.noise == "none"])
    refuse(*submit("--noise", "em"), expected=lacking)
    against = ("--noise", "em", "--breaker", BREAKER)
    refuse(*submit(*against), expected=f"the entry lacks em / {BREAKER} / smallcnn seed 0; none / {BREAKER} / smallcnn")
    put_on_board(tmp_path / "leaderboards", em)
    refuse(
        *submit("--noise", "em"), expected="the store .uebench has no result of making em for digits, seed 0; give the"
    )
    refuse(*submit("--noise", "rme"), expected="unknown noise 'rme'; did you mean rem?")
    refuse(
        *submit("--noise", "em", "--dataset", "digits", "--dataset", "digits:pad=2"),
        expected="is of one dataset, not 2",
    )
    two = ("--breaker", BREAKER, "--breaker", "grayscale")
    refuse(*submit("--noise", "em", *two), expected="a submission is of one breaker, not 2")


def grids(folder: Path, second: str, third: str) -> Path:
    """Write a suite of three cross products on one data set: the clean set, em, and em on half of the images."""
    whole = TINY.read_text().replace('noises = ["none", "em", "rem"]\n', "")
    parts = ('["none"]', f'["em"]\n{second}', f'["em"]\nprotected = [0.5]\n{third}')
    (folder / "several.toml").write_text(whole + "".join(f"\n[[grid]]\nnoises = {part}\n" for part in parts))
    return folder / "several.toml"


def test_several_grids_on_one_data_set_are_handed_in_where_they_mean_the_same(
    call: Callable[..., str], refuse: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "find", lambda self, key: {"released.safetensors": TINY})
    own = "[grid.defaults.noise.em]\nsteps = 10"
    path = str(grids(tmp_path, own, own))
    cells = {
        cell.key: (part, cell)
        for part in select_components(read_suite(path), seeds=[0, 1, 2])
        for cell in planned(part)
    }
    found = [record(part, cell, 700 + 7 * cell.protect.seed) for part, cell in cells.values() if cell.protected == 1]
    assert {one.noise for one in found} == {"none", "em"}, "each named by its grid, whose default is 10"
    write_results(tmp_path / "leaderboards/several/results.jsonl", {one.key: one for one in found})
    words = ("submit", path, "--noise", "em", "--name", "Ada", "--into")
    assert "entry     noise em on digits in suite several, by Ada\ncells     12 results" in call(*words, "em.zip")
    assert call("verify", "em.zip", "--suite", path).endswith("badge     valid\n")
    grids(tmp_path, own, own.replace("10", "11"))
    refuse(*words, "x.zip", expected="grids of suite several mean different noises: em:radius=32/255,")
    grids(tmp_path, "[grid.recipe]\nsteps = 30", "[grid.recipe]\nsteps = 30")
    refuse(*words, "x.zip", expected="suite several runs this by the recipe sgd:steps=30,")


def planned(part: Selection) -> Sequence[Cell]:
    return plan_selection(part, registry().build("noise", "none"), (registry().build("breaker", "none"),), [""]).cells  # type: ignore[arg-type]


def test_results_that_do_not_say_what_they_were_made_with_are_not_packed(
    em: list[Result], refuse: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "find", lambda self, key: {"released.safetensors": TINY})
    put_on_board(tmp_path / "leaderboards", [structs.replace(one, made_with={"device": "x"}) for one in em])
    words = ("submit", str(TINY), "--noise", "em", "--into", "x.zip", "--name", "Ada")
    refuse(*words, expected="made_with: Object missing required field `uebench`")


def test_the_spread_is_that_of_two_runs() -> None:
    """By hand: variance of 0.5, 0.6, 0.7 is 0.01; p = (0.6 * 100 + 1) / 102; p (1 - p) / 100."""
    p = Fraction(61, 102)
    assert run_deviation([0.5, 0.6, 0.7], 100) == pytest.approx(math.sqrt(2 * (0.01 + float(p * (1 - p)) / 100)))
    assert run_deviation([1.0], 500) > 0, "one seed, every image right"
    assert run_deviation([0.5], 10_000) == pytest.approx(math.sqrt(2 * 0.25 / 10_000), rel=1e-3)
    one = Agreement("a cell", 0.5, 0.53, 0.01)
    assert one.deviations == pytest.approx(3)
    assert not Agreement("a cell", 0.5, 0.531, 0.01).holds
    assert Agreement("a cell", 0.5, 0.529, 0.01).holds


def test_test_images_are_counted_from_accuracies() -> None:
    assert count_test_images(right / 500 for right in (250, 125, 499)) == 500
    assert count_test_images(right / 12_345 for right in range(1, 12_345, 97)) == 12_345
    assert count_test_images([]) == 1
    for wrong in (0.1 + 0.2, 1 / 3 + 1e-9, math.pi / 4):
        with pytest.raises(UserError, match="counts no whole images"):
            count_test_images([wrong])


def test_the_sample_follows_from_bundle_and_seed_and_is_nobodys_choice(em: list[Result]) -> None:
    def keys(bundle: str, seed: int) -> list[str]:
        return [one.key for one in draw_sample(em, bundle, 3, seed)]

    assert keys("a", 1) == keys("a", 1)
    assert len({tuple(keys(bundle, seed)) for bundle in "ab" for seed in range(4)}) == 8
    assert {key for seed in range(40) for key in keys("a", seed)} == {one.key for one in em}
    assert len(draw_sample(em, "a", 99, 1)) == len(em)


def test_a_canonical_text_is_restored_to_what_it_was() -> None:
    assert restore_component("noise", EM) == registry().build("noise", "em", SUITE.defaults)
    (attack,) = restore_chain(CHALLENGER)
    assert attack.name == "adv-linf"
    given = object()
    assert restore_component("noise", "x", {"x": given}) is given  # type: ignore[dict-item]
    with pytest.raises(NotInstalled, match=r"noise file needs path=\.\.\."):
        restore_component("noise", "file@1:content=abc,radius=0.1,norm=linf,kind=auto")
    with pytest.raises(NotInstalled, match="noise em has version 1 here, not 7"):
        restore_component("noise", EM.replace("em@1", "em@7"))
    with pytest.raises(UserError, match="holds members that do nothing"):
        restore_chain(f"none@1+{CHALLENGER}")


def distribution(folder: Path, code: str, installer: str) -> None:
    """Lay out an installed distribution as pip does."""
    info = folder / "my_noise-1.0.dist-info"
    (info).mkdir(parents=True)
    files = {"my_noise.py": code, "my_noise-1.0.dist-info/METADATA": "Name: my-noise\nVersion: 1.0\n"}
    local = {"my_noise-1.0.dist-info/INSTALLER": installer, "__pycache__/my_noise.pyc": installer}
    (folder / "__pycache__").mkdir()
    for name, text in {**files, **local}.items():
        (folder / name).write_text(text)
    (info / "RECORD").write_text(
        "".join(f"{name},,\n" for name in (*sorted({**files, **local}), f"{info.name}/RECORD"))
    )


def test_the_hash_of_a_distribution_is_that_of_its_files_wherever_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for place, (code, installer) in enumerate((("x = 1", "pip"), ("x = 1", "uv"), ("x = 2", "pip"))):
        distribution(tmp_path / str(place), code, installer)
        with monkeypatch.context() as patch:
            patch.syspath_prepend(tmp_path / str(place))
            found.append(distribution_hash.hash_distribution("my-noise"))
    assert found[0] == found[1]
    assert found[0] != found[2]
    assert found[0] is not None
    assert found[0][0] == "1.0"
    assert distribution_hash.hash_distribution("a-distribution-that-nobody-has") is None


def test_the_hash_of_an_editable_distribution_tells_files_of_one_name_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two modules change places: every name and every content stays, the paths do not."""
    hashes = []
    for number, (first, second) in enumerate((("1", "2"), ("2", "1"), ("1", "2"))):
        folder = tmp_path / str(number)
        info = folder / "pair-1.0.dist-info"
        for name, code in (("a", first), ("b", second)):
            (folder / "pair_package" / name).mkdir(parents=True)
            (folder / "pair_package" / name / "same.py").write_text(f"VALUE = {code}")
        (folder / "pair_package" / "__init__.py").write_text("")
        info.mkdir()
        (info / "METADATA").write_text("Name: pair\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[uebench]\npair = pair_package.a.same\n")
        (info / "direct_url.json").write_text('{"url": "file:///x", "dir_info": {"editable": true}}')
        with monkeypatch.context() as patch:
            patch.syspath_prepend(folder)
            hashes.append(distribution_hash.hash_distribution("pair"))
    assert hashes[0] == hashes[2]
    assert hashes[0] != hashes[1]


def test_names_are_shown_as_they_are_on_every_page() -> None:
    evil = "a|b <i>x</i> `c` *d* [e](f) $g$ &amp; ~h~ _i_ adv_radius=4/255 \\ https://j www.k"
    (_, _, line) = markdown_table(["head"], [[evil]]).splitlines()
    assert line == (
        r"| a\|b \<i\>x\</i\> \`c\` \*d\* \[e\](f) \$g\$ \&amp; \~h\~ \_i\_ adv_radius=4/255 \\ https\://j www\.k |"
    )
    assert markdown_table(["head"], [["two\nlines"]]).splitlines()[-1] == "| two lines |"
    assert r"\textbackslash input\{x\} 5\% \& \_\$\#" in latex_table(["head"], [[r"\input{x} 5% & _$#"]])


def test_names_are_shown_as_they_are_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(make_console(), "[b]title[/b]", ["[u]head[/u]"], [["[red]em[/red] :snake:"]])
    print_line("[link=x]y[/link] :snake:")
    output = capsys.readouterr().out
    for text in ("[b]title[/b]", "[u]head[/u]", "[red]em[/red] :snake:", "[link=x]y[/link] :snake:"):
        assert text in output


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx", "\rx"])
def test_no_cell_of_a_csv_is_a_formula(text: str) -> None:
    table = pd.DataFrame({"name": [text, "em"], "number": [-0.5, float("nan")]})
    rows = list(csv.reader(csv_table(table, 2).splitlines()))
    assert rows[1] == [f"'{text}", "-0.50"] if "\r" not in text else rows[1][0].startswith("'")
    assert rows[-1] == ["em", ""]


def test_from_a_run_to_the_board(call: Callable[..., str], tmp_path: Path) -> None:
    """Run, hand in, verify with a re-run, accept; then a breaker against it. Both sides share a store."""
    small = (str(TINY), "--noise", "em", "--workers", "1")
    there, here = tmp_path / "theirs", tmp_path / "ours"
    theirs = ("--store", str(there / "store"), "--boards", str(there / "boards"))
    ours = ("--store", str(there / "store"), "--boards", str(here / "boards"), "--suite", str(TINY), "--workers", "1")
    call("run", *small, "--breaker", "adv-linf", *theirs)
    submit = ("submit", str(TINY), "--noise", "em", "--name", "Ada", *theirs)
    output = call(*submit, "--into", "em.zip")
    assert "log       of 4 of 4 results\n" in output
    events = [one["event"] for one in read_bundle(tmp_path / "em.zip").log]
    assert (events.count("started"), set(events)) == (5, {"started", "step"}), "four networks and a noise"
    assert output.endswith("badge     claimed; send em.zip to the maintainers of the board\n")
    call(*submit, "--into", "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == (tmp_path / "em.zip").read_bytes()
    call(*submit, "--into", "images.zip", "--with-noise")
    with zipfile.ZipFile(tmp_path / "images.zip") as archive:
        (name,) = [one for one in archive.namelist() if one.startswith("noise/")]
        (key,) = read_bundle(tmp_path / "images.zip").manifest["released"]
        assert digest(archive.read(name)) == read_bundle(tmp_path / "em.zip").manifest["released"][key]

    output = call("verify", "em.zip", "--rerun", "2", "--verification-seed", "5", *ours)
    assert len(re.findall(r" done   .* on smallcnn, seed 0: ", output)) == 2, "what the submitter ran is not looked up"
    sampled = re.findall(r"re-run    (\w+) / .* claimed", output)
    assert ("re-run    making em for digits, seed 0: the same bytes" in output) == ("em" in sampled)
    assert len(re.findall(r"re-run    .*: 0\.\d{4} claimed, 0\.\d{4} measured, 0\.0 standard deviations", output)) == 2
    assert "re-run    2 of 2 cells, verification seed 5" in output
    assert output.endswith("badge     re-run\n")
    output = call("accept", "em.zip", "--rerun", "2", "--verification-seed", "5", *ours)
    assert "start " not in output, "what verify ran is not run again"
    folder = here / "boards" / "tiny"
    assert (row(folder, "em")["status"], row(folder, "em")["ruling"]) == ("provisional", "re-run")
    assert "provisional, re-run, surrogate-equals-target" in (folder / "README.md").read_text()
    assert read_history(folder)[0]["rerun"] == {"cells": 2, "seed": 5, "deviations": 0.0}

    call("run", *small, "--breaker", "grayscale", *theirs)
    call("submit", str(TINY), "--noise", "em", "--breaker", "grayscale", "--into", "gray.zip", "--name", "Eve", *theirs)
    output = call("accept", "gray.zip", *ours)
    assert "entry     breaker grayscale against em on digits in suite tiny, by Eve" in output
    assert row(folder, "em")["ruling"] == "re-run; also against grayscale"


def test_a_re_run_that_disagrees_is_not_accepted(em: list[Result], call: Callable[..., str], tmp_path: Path) -> None:
    """The made-up accuracies of em under `none` are not what training gives."""
    handed_in(tmp_path / "em.zip", em, "em")
    own = [one for one in em if (one.noise, one.breaker) == ("none", "none")]
    seed = next(
        seed for seed in range(1000) if draw_sample(em, digest((tmp_path / "em.zip").read_bytes()), 1, seed)[0] in own
    )
    words = ("--rerun", "1", "--verification-seed", str(seed), "--workers", "1")
    output = call(*ACCEPT, *words, status=1)
    assert re.search(r"re-run    none / none on smallcnn, seed \d: 0\.9\d+ claimed, .*: DISAGREES", output)
    assert output.endswith("badge     valid\n")
    assert not (tmp_path / "leaderboards").exists()


def test_the_number_of_test_images_is_known_when_a_cell_is_run_again(
    em: list[Result], refuse: Callable[..., None], tmp_path: Path
) -> None:
    forger = Forger(tmp_path / "em.zip", em)
    forger.each(accuracy(0.123), key=False, noise="em")  # a whole number of 7000 images, not of 1400
    forger.write()
    refuse(*VERIFY, "--rerun", "1", expected="test accuracy 0.123 is not a whole number of 1400 images", told=True)


def test_the_manifest_is_what_the_documentation_says() -> None:
    assert set(manifest(results("em", seeds=[0]), "em")) | {"members"} == set(Manifest.__struct_fields__)


def test_data_that_only_a_path_makes_are_run_again_where_they_are(em: list[Result], tmp_path: Path) -> None:
    """The text of a folder names no path; the maintainer gives one, and its content must be the bundle's."""
    pictures(tmp_path / "set")
    source = registry().build("dataset", f"folder:path={tmp_path / 'set'},size=8")
    store, text = Store(tmp_path / "store"), canonical_text(source)
    content = content_fingerprint(source, store)  # type: ignore[arg-type]
    made = Entry(SUITE, text, content, [EM], "")
    with pytest.raises(NotInstalled, match=r"dataset folder needs path=\.\.\."):
        prepare_rerun(made, em, {}, store)
    with pytest.raises(NotInstalled, match="has other content here than 'abc'"):
        prepare_rerun(replace(made, content="abc"), em, {text: source}, store)
    prepared = prepare_rerun(made, em, {text: source}, store)
    expected = [{**one.parameters, "dataset": text, "content": content} for one in em]
    assert [cell.parameters for cell in prepared.plan.cells] == expected
    assert prepared.images == 2 * 4, "two classes of four"


def test_a_badge_is_raised_when_the_same_bundle_is_accepted_again(
    em: list[Result], call: Callable[..., str], tmp_path: Path
) -> None:
    path, folder = handed_in(tmp_path / "em.zip", em, "em"), tmp_path / "leaderboards" / "tiny"
    call(*ACCEPT)
    found = read_bundle(path)
    entry = entry_from_bundle(found, SUITE)
    rerun = RerunReport(2, 1, agreements=[Agreement("a cell", 0.5, 0.505, 0.01)])
    report = VerificationReport(found, SUITE, entry, summarise_bundle(found, entry), [], rerun)
    assert (report.badge, report.agreed) == ("re-run", True)
    execution = ExecutionSettings(tmp_path / "store", "cpu", 1, 1, 60)
    update = accept_entry(report, VerificationSettings(tmp_path / "leaderboards", execution))
    assert (update.folder, [change.noise for change in update.changes]) == (folder, [])
    assert row(folder, "em")["ruling"] == "re-run"
    assert [one["badge"] for one in read_history(folder)] == ["valid", "re-run"]


def test_a_re_run_that_fails_is_said_and_is_no_agreement(
    em: list[Result], call: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mine(uebench.Noise):
        """Fail."""

        name = "mine"

        def make(self, *_: object) -> torch.Tensor:
            raise UserError("there is no such noise")

    monkeypatch.setitem(registry().entries["noise"], "mine", RegisteredComponent(Mine, "noise", "x", "1"))
    forger = Forger(tmp_path / "em.zip", em)
    renamed(OTHER, "mine")(forger)
    forger.write()
    put_on_board(tmp_path / "leaderboards", [one for one in em if one.noise == "none"])
    output = call(*VERIFY, "--rerun", "1", "--workers", "1", status=1)
    assert re.search(r"re-run    failed: making mine for digits, seed \d: there is no such noise", output)
    assert "re-run    0 of 1 cells" in output
    assert output.endswith("badge     valid\n")


def test_results_of_another_release_than_is_installed_are_not_packed(
    em: list[Result], refuse: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_on_board(tmp_path / "leaderboards", em)
    monkeypatch.setattr(Store, "find", lambda self, key: {"released.safetensors": TINY})
    monkeypatch.setattr(submit, "hash_distribution", lambda name: ("9.9", "0" * 64))
    words = ("submit", str(TINY), "--noise", "em", "--into", "x.zip", "--name", "Ada")
    refuse(*words, expected="results were made with uebench 0.1.0; 9.9 is installed here")


def test_a_noise_that_is_listed_in_two_versions_is_withdrawn_by_its_canonical_text(
    em: list[Result], call: Callable[..., str], refuse: Callable[..., None], tmp_path: Path
) -> None:
    for version in (1, 2):
        forger = Forger(tmp_path / "em.zip", em)
        renamed(OTHER.replace("@1", f"@{version}"), "mine")(forger)
        forger.write()
        call(*ACCEPT)
    words = ("withdraw", str(TINY), "--reason", "x", "--noise")
    refuse(*words, "mine", expected=f"'mine' is the name of several noises; say which: {OTHER}; mine@2:radius=")
    call(*words, OTHER)
    with (tmp_path / "leaderboards/tiny/noises.csv").open() as file:
        statuses = {one["parameters"]: one["status"] for one in csv.DictReader(file)}
    assert statuses[OTHER] == "withdrawn"
    assert statuses[OTHER.replace("@1", "@2")] == "ranked"
