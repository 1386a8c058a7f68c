"""`uebench accept` and `withdraw`: how boards and their history change."""

from __future__ import annotations

import csv
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec import structs

from tests.conftest import TINY
from tests.submission.factory import (
    ACCEPT,
    BREAKER,
    EM,
    IMAGES,
    OTHER,
    REM,
    SUBMITTER,
    SUITE,
    VERIFY,
    Forger,
    challenge,
    contents,
    digest,
    handed_in,
    manifest,
    put_on_board,
    renamed,
    results,
    row,
)
from uebench.board.agreement import Agreement
from uebench.executors.settings import ExecutionSettings
from uebench.storage.history import read_history
from uebench.storage.result import Result
from uebench.storage.results_file import read_results
from uebench.submission.bundle import read_bundle, write_bundle
from uebench.submission.decisions import accept_entry
from uebench.submission.entry import entry_from_bundle
from uebench.submission.reports import RerunReport, VerificationReport, summarise_bundle
from uebench.submission.rerun import draw_sample
from uebench.submission.verify import VerificationSettings


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
    assert "accept    would refuse it: this bundle was accepted before, as valid\n" in call(*VERIFY)
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
    assert (events.count("started"), set(events)) == (5, {"started", "step", "tested"}), "four networks and a noise"
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
    assert re.search(
        r"provisional, re-run, (linearly-separable, )?surrogate-equals-target", (folder / "README.md").read_text()
    )
    assert read_history(folder)[0]["rerun"] == {"cells": 2, "seed": 5, "deviations": 0.0}

    call("run", *small, "--breaker", "grayscale", *theirs)
    listed = (*theirs[:2], "--boards", str(here / "boards"))
    call("submit", str(TINY), "--noise", "em", "--breaker", "grayscale", "--into", "gray.zip", "--name", "Eve", *listed)
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
