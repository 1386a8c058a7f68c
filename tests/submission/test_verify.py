"""`uebench verify`: valid bundles, and samples that are run again."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from msgspec import structs

import uebench
from tests.conftest import TINY
from tests.plugins.test_contract import pictures
from tests.submission.factory import (
    ACCEPT,
    CHALLENGER,
    EM,
    IMAGES,
    OTHER,
    SUITE,
    VERIFY,
    Forger,
    accuracy,
    contents,
    handed_in,
    put_on_board,
    renamed,
    results,
)
from uebench import UserError
from uebench.board.agreement import Agreement, count_test_images, run_deviation
from uebench.components.registry import RegisteredComponent, registry
from uebench.components.spec import canonical_text
from uebench.jobs.datasets import content_fingerprint
from uebench.storage.result import Result
from uebench.storage.results_file import read_results
from uebench.storage.store import Store
from uebench.submission.entry import Entry
from uebench.submission.rerun import draw_sample, prepare_rerun
from uebench.submission.restore_components import NotInstalled, restore_chain, restore_component


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


def test_a_verification_as_json_says_what_the_lines_say(
    em: list[Result], references: list[Result], call: Callable[..., str], tmp_path: Path
) -> None:
    handed_in(tmp_path / "em.zip", em, "em")
    put_on_board(tmp_path / "leaderboards", references)
    report = json.loads(call(*VERIFY, "--json"))
    assert (report["agreed"], report["badge"], report["rerun"]) == (True, "valid", None)
    assert (report["summary"]["noises"], report["summary"]["own_results"]) == (["em"], 6)
    assert f"sha256 {report['summary']['sha256']}" in call(*VERIFY)
    assert len(report["references"]) == 6


def test_a_provisional_bundle_is_valid_and_says_so(call: Callable[..., str], tmp_path: Path) -> None:
    handed_in(tmp_path / "em.zip", results("em", seeds=[0]), "em")
    assert "seeds 0; provisional, a rank needs 3 seeds" in call(*VERIFY)


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
        with pytest.raises(UserError, match="is no whole number of images"):
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


def test_the_number_of_test_images_is_known_when_a_cell_is_run_again(
    em: list[Result], refuse: Callable[..., None], tmp_path: Path
) -> None:
    forger = Forger(tmp_path / "em.zip", em)
    forger.each(accuracy(0.123), key=False, noise="em")  # a whole number of 7000 images, not of 1400
    forger.write()
    refuse(*VERIFY, "--rerun", "1", expected="test accuracy 0.123 is not a whole number of 1400 images", told=True)


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
