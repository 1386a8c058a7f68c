"""The command line as a person meets it."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.conftest import TINY
from uebench.cli.main import main
from uebench.components.registry import registry
from uebench.planning.selection import select_components
from uebench.planning.suite_file import available_suites, read_suite
from uebench.workflows.run import plan_with_references

Call = Callable[..., Result]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.chdir(tmp_path)

    def command(*words: str) -> Result:
        done = CliRunner().invoke(main, words, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done

    return command


SMALL = ("run", str(TINY), "--noise", "em", "--breaker", "adv-linf", "--workers", "1")


def test_a_run_writes_a_ranked_board(call: Call, tmp_path: Path) -> None:
    output = call(*SMALL).output
    assert re.search(r"^\d\d:\d\d:\d\d start  making em for digits, seed 0$", output, re.MULTILINE)
    assert re.search(
        r"done   em / adv-linf on smallcnn, seed 0: [\d.]+ %  \[1 of 4 cells(, about [\d:]+ left)?\]", output
    )
    assert output.rstrip().endswith("Board: .uebench/boards/tiny/README.md")
    folder = tmp_path / ".uebench" / "boards" / "tiny"
    assert not (tmp_path / "leaderboards").exists()
    written = {path.name for path in folder.iterdir()}
    assert written == {
        "results.jsonl",
        "noises.csv",
        "noises.tex",
        "heat_map.svg",
        "breakers.csv",
        "README.md",
        "gallery",
    }
    rows = list(csv.DictReader((folder / "noises.csv").open()))
    em = next(row for row in rows if row["noise"] == "em")
    assert (em["rank"], em["status"], em["seeds"]) == ("1", "provisional", "1")
    assert float(em["noise_linf"]) == pytest.approx(32 / 255, abs=1e-6)


def test_ranking_again_rebuilds_the_same_files(call: Call, tmp_path: Path) -> None:
    call(*SMALL)
    folder = tmp_path / ".uebench" / "boards" / "tiny"
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    for name in ("noises.csv", "noises.tex", "breakers.csv", "README.md"):
        (folder / name).unlink()
    call("rank", str(TINY), "--record", "both")
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == before


def test_a_dry_run_shows_the_totals_and_a_line_for_all_seeds_and_writes_nothing(call: Call, tmp_path: Path) -> None:
    output = call(*SMALL, "--seed", "0,1,2", "--dry-run").output
    assert output.startswith("6 noises and 12 cells; 18 of 18 jobs to do\n")
    passes = 3 * 60 * 64 * 3  # seeds, steps, batch, and two attack steps beside the training step
    assert re.search(rf"│ em / adv-linf on smallcnn +│ 3 +│ 0 +│ {passes / 1e3:.3g} k +│ – +│", output)
    assert not list(tmp_path.iterdir())


def test_what_is_finished_is_not_done_again_when_the_product_grows(call: Call) -> None:
    call(*SMALL)
    output = call(*SMALL, "--noise", "none", "--breaker", "adv-linf:radius=1/255").output
    started = re.findall(r"start  (.*)", output)
    assert started == [f"{noise} / adv-linf:radius=1/255 on smallcnn, seed 0" for noise in ("none", "em")]


def test_a_run_shows_its_own_numbers_and_whether_the_published_ones_agree(call: Call, tmp_path: Path) -> None:
    first = call(*SMALL).output
    assert "published" not in first, "nothing is"
    assert call("publish", str(TINY)).output.startswith("4 results added. Board: leaderboards/tiny/README.md")
    path = tmp_path / "leaderboards" / "tiny" / "results.jsonl"
    assert path.read_bytes() == (tmp_path / ".uebench" / "boards" / "tiny" / "results.jsonl").read_bytes()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    plain = next(line for line in lines if (line["noise"], line["breaker"]) == ("em", "none"))
    own = plain["test_accuracy"]
    for shift, count in ((0, 4), (1 / 1400, 4), (0.5, 3)):
        plain["test_accuracy"] = round(1400 * (own + shift if own < 0.5 else own - shift)) / 1400
        path.write_text("".join(json.dumps(line, sort_keys=True, ensure_ascii=False) + "\n" for line in lines))
        published = {file: file.read_bytes() for file in path.parent.rglob("*") if file.is_file()}
        output = call(*SMALL).output
        assert f"{count} of your 4 cells agree with the published record." in output
        assert re.search(rf"│ em +│ .*│ {100 * own:.1f} +│", output), "the user's own number"
        assert ("differs: em / none on smallcnn, seed 0: " in output) == (count < 4)
        assert {file: file.read_bytes() for file in path.parent.rglob("*") if file.is_file()} == published


def test_own_noises_have_their_place_among_the_published(call: Call, tmp_path: Path) -> None:
    call(*SMALL)
    call("publish", str(TINY))
    output = call(*SMALL[:2], "--noise", "rem", "--breaker", "adv-linf", "--workers", "1", "--store", "other").output
    own, _, place = output.partition("your results: ")[2].partition("among the published")
    assert "│ rem " in own
    assert "│ em " not in own
    assert re.search(r"│ rem .*│ yours +│", place)
    assert re.search(r"│ em .*│ published +│", place)
    assert "2 of your 2 cells agree" in place, "the clean reference"


def test_own_noises_have_their_place_on_boards_of_every_protected_share(call: Call) -> None:
    call(*SMALL, "--protect", "0.5,1")
    call("publish", str(TINY))
    output = call(*SMALL, "--protect", "0.5,1", "--store", "other").output
    assert (
        output.count("your results: digits, recipe") == output.count("your results: digits, 50% protected (mixed)") == 1
    )
    assert output.count("among the published, ") == 2
    assert "6 of your 6 cells agree with the published record." in output
    for record in ("own", "both", "published"):
        call("rank", str(TINY), "--record", record, "--store", "other")


def test_publishing_keeps_other_numbers_unless_told(call: Call, tmp_path: Path) -> None:
    call(*SMALL)
    call("publish", str(TINY))
    path = tmp_path / "leaderboards" / "tiny" / "results.jsonl"
    own = path.read_bytes()
    lines = [json.loads(line) for line in own.splitlines()]
    lines[2]["ssim"] /= 2
    path.write_text("".join(json.dumps(line, sort_keys=True, ensure_ascii=False) + "\n" for line in lines))
    theirs = path.read_bytes()
    kept = call("publish", str(TINY))
    assert kept.stdout.startswith("0 results added.")
    assert kept.stderr.count("note: other numbers were published: ") == 1
    assert path.read_bytes() == theirs
    replaced = call("publish", str(TINY), "--replace")
    assert "; replaced" in replaced.stderr
    assert path.read_bytes() == own


def test_publishing_one_noise_takes_the_clean_reference_along(call: Call, tmp_path: Path) -> None:
    call(*SMALL, "--noise", "rem")
    call("publish", str(TINY), "--noise", "rem")
    lines = (tmp_path / "leaderboards" / "tiny" / "results.jsonl").read_text().splitlines()
    assert {json.loads(line)["noise"] for line in lines} == {"none", "rem"}
    wrong = CliRunner().invoke(main, ["publish", str(TINY), "--noise", "ren"])
    assert wrong.exit_code == 2
    assert "there are no results of noise 'ren'; did you mean rem?" in wrong.output


def test_plugins_lists_everything_with_its_origin(call: Call) -> None:
    output = call("plugins").output
    for name in ("em", "rem", "sem", "adv-linf", "smallcnn", "resnet18", "digits", "folder"):
        assert re.search(rf"│ {name} +│ .*│ uebench ", output), name


def test_plugins_describes_one_with_units_and_paper(call: Call) -> None:
    output = call("plugins", "rem").output
    assert "Fu et al., Robust Unlearnable Examples" in output
    assert re.search(
        r"adv_radius +│ L-inf radius of the perturbations +│ +float +│ +4/255 +│ +pixel range \[0, 1\]", output
    )


def test_check_reports_rule_by_rule(call: Call) -> None:
    output = call("check", "none", "--suite", str(TINY)).output
    assert "noise none" in output
    assert "breaker none" in output
    assert re.search(r"pass │ same seed, same bytes", output)


@pytest.mark.parametrize(("word", "status"), [("--version", 0), ("nonsense", 2)])
def test_the_process_ends_with_the_status_of_the_command(word: str, status: int) -> None:
    program = "import atexit; atexit.register(print, 'done'); from uebench.cli import script; script()"
    ended = subprocess.run([sys.executable, "-c", program, word], capture_output=True, text=True)
    assert ended.returncode == status
    assert ended.stdout.endswith("done\n")
    assert bool(ended.stderr) == (status > 0)


def test_plugins_as_json_has_every_component_with_its_parameters(call: Call) -> None:
    document = json.loads(call("plugins", "--json").output)
    named = {(part["kind"], part["name"]): part for part in document["components"]}
    assert set(named) == {(kind, name) for kind, entries in registry().entries.items() for name in entries}
    assert document["left_out"] == []
    radius = next(row for row in named["noise", "em"]["parameters"] if row["name"] == "radius")
    assert (radius["default"], radius["type"]) == ("8/255", "float")
    (em,) = json.loads(call("plugins", "em", "--json").output)["components"]
    assert em == named["noise", "em"]


@pytest.mark.parametrize("name", ["demo", "cifar10", "rem-table2", "rem-table8", "apbench-cifar10", "sem-ablation"])
def test_suites_counts_the_cells_of_a_whole_run(call: Call, name: str) -> None:
    suites = {suite["name"]: suite for suite in json.loads(call("suites", "--json").output)}
    assert set(suites) == set(available_suites())
    selections = select_components(read_suite(name))
    plans = [plan_with_references(selection, lambda source: "") for selection in selections]
    assert suites[name]["cells"] == len({cell.key for plan in plans for cell in plan.cells})
    assert read_suite(name).title in call("suites").output


def test_a_run_and_a_rank_as_json_hold_the_record_and_the_rows_of_the_board(call: Call, tmp_path: Path) -> None:
    done = json.loads(call(*SMALL, "--json").stdout)
    folder = tmp_path / ".uebench" / "boards" / "tiny"
    lines = map(json.loads, (folder / "results.jsonl").read_text().splitlines())
    assert sorted(done["results"], key=lambda result: result["key"]) == list(lines)
    assert (done["suite"], done["status"], done["requested"], done["failures"]) == ("tiny", 0, 4, {})
    ranked = json.loads(call("rank", str(TINY), "--record", "both", "--json").stdout)
    assert ranked["boards"] == done["boards"]
    rows = {row["noise"]: row for row in csv.DictReader((folder / "noises.csv").open())}
    (em,) = (row for row in ranked["boards"][0]["noises"] if row["noise"] == "em")
    assert em["residual_protection"] == pytest.approx(float(rows["em"]["residual_protection"]), abs=1e-6)


def test_a_dry_run_as_json_has_every_job_with_its_key(call: Call) -> None:
    document = json.loads(call(*SMALL, "--seed", "0,1", "--dry-run", "--json").stdout)
    assert len(document["jobs"]) == len({job["key"] for job in document["jobs"]}) == 12
    assert {job["done"] for job in document["jobs"]} == {False}
    call(*SMALL)
    document = json.loads(call(*SMALL, "--dry-run", "--json").stdout)
    assert {job["done"] for job in document["jobs"]} == {True}


def test_check_as_json_names_each_rule_and_fails_like_the_table(call: Call) -> None:
    (checked,) = json.loads(call("check", "sc-linf", "--json").output)
    assert (checked["kind"], checked["component"]) == ("noise", "sc-linf:radius=32/255,patch=2")
    assert all(finding["kept"] for finding in checked["findings"])
    table = call("check", "sc-linf").output
    assert all(finding["rule"] in table for finding in checked["findings"])


def test_compare_as_json_has_the_numbers_of_the_csv(call: Call) -> None:
    document = json.loads(call("compare", "rem-table2", "--format", "json").output)
    rows = list(csv.DictReader(call("compare", "rem-table2", "--format", "csv").output.splitlines()))
    assert [cell["percent"] for cell in document["cells"]] == [float(row["percent"]) for row in rows]
    assert document["cells"][0]["ours"] is None
    assert [set(claim) for claim in document["claims"]] == [{"claim", "published", "ours", "fails here"}] * len(
        document["claims"]
    )


def test_no_line_of_the_help_is_cut(call: Call) -> None:
    commands = call("--help").output.partition("Commands:")[2]
    assert "withdraw" in commands
    assert "..." not in commands


def test_plots_and_pages_are_made_of_either_record_or_of_both(call: Call, tmp_path: Path) -> None:
    call(*SMALL)
    call("publish", str(TINY))
    store = ("--store", "other")
    call("run", *SMALL[1:2], "--noise", "rem", "--breaker", "adv-linf", "--workers", "1", *store)
    noises = {"published": {"none", "em"}, "own": {"none", "rem"}, "both": {"none", "em", "rem"}}
    for record, expected in noises.items():
        call("site", str(TINY), "--record", record, "--into", record, *store)
        data = json.loads((tmp_path / record / "data.json").read_text())
        rows = data["suites"]["tiny"]["boards"][0]["noises"]
        assert {row["noise"] for row in rows} == expected
        assert {row["record"] for row in rows} == ({"published", "own"} if record == "both" else {""})
    call("plot", str(TINY), "--record", "own", *store)
    assert (tmp_path / "other" / "boards" / "tiny" / "plots").is_dir()


def test_quiet_prints_results_alone_and_verbose_more_lines(call: Call) -> None:
    quiet = call(*SMALL, "-q").output
    assert quiet.startswith("your results: ")
    assert "start " not in quiet
    verbose = call("run", str(TINY), "--noise", "rem", "--breaker", "none", "--workers", "1", "-v").output
    assert re.search(r"^\d\d:\d\d:\d\d step   making rem for digits, seed 0: \d+ of \d+", verbose, re.MULTILINE)


def test_a_data_set_is_fetched_into_the_store(call: Call, tmp_path: Path) -> None:
    output = call("fetch", "digits", "--suite", str(TINY)).output
    assert output == "digits: 397 training and 1400 test images of 3x8x8, 10 classes, in .uebench\n"
    assert list(tmp_path.rglob("train.safetensors"))
    refused = CliRunner().invoke(main, ["fetch", "folder:path=nowhere"])
    assert refused.exit_code == 2
    assert "is missing or has no folder per class" in refused.output
