"""Every command and option that README and documents name is run here, and its output compared."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.conftest import ROOT, TINY
from tests.test_readme import DOCUMENTS, blocks
from uebench.cli.main import main
from uebench.executors import settings

TEXTS = {
    **DOCUMENTS,
    **{path: path.read_text() for path in (ROOT / "plugins" / "README.md", ROOT / "leaderboards" / "README.md")},
}
COMMANDS = sorted(
    {
        line
        for text in TEXTS.values()
        for block in blocks("sh", text)
        for line in block.splitlines()
        if line.startswith("uebench ")
    }
)
OUTPUTS = {
    "uebench accept em.zip --rerun 3": (2, "em.zip is not a file"),
    "uebench bench demo": (0, r"smallcnn at 8x8 │ attack step .*Suite demo\. Passes of one image"),
    "uebench check mine": (2, "no component is called 'mine'"),
    "uebench check rem": (0, r"noise\s+rem:.*│ pass │ says what it is"),
    "uebench compare rem-table1": (0, r"│ em-rem +│ 13\.20 / –"),
    "uebench export protected --noise em --dataset folder:path=DIR,size=64": (
        2,
        "DIR/train is missing or has no folder per class",
    ),
    "uebench fetch digits": (0, r"digits: 1297 training and 500 test images of 3x8x8, 10 classes"),
    "uebench new noise mine": (0, r"mine"),
    "uebench plot demo": (0, r"accuracy-against-radius-of-adv-linf|\.svg"),
    "uebench plugins": (0, r"│ rem .*│ adv-linf .*│ resnet18 "),
    "uebench plugins rem": (0, r"noise rem version \d+, from uebench .*adv_radius"),
    "uebench rank demo": (0, r"│ \(?1\)? +│ ntga-pgd"),
    "uebench run cifar10-fast --noise sem --dataset folder:path=DIR": (
        1,
        r"making sem for cifar10-jpeg.*sem / grayscale on fastnet.*DIR/train is missing or has no folder per class",
    ),
    "uebench run cifar10-recipes --dataset folder:path=DIR": (1, r"on resnet8.*DIR/train is missing"),
    "uebench run cifar10-small --dataset folder:path=DIR": (1, r"lowpass-median on resnet8.*DIR/train is missing"),
    "uebench run demo --dry-run": (0, r"15 noises, 45 trials and 285 cells.*making ntga-pgd for digits"),
    "uebench run demo --noise em --noise sem:radius=24/255 --breaker adv-linf:radius=8/255,steps=5 --seed 0,1,2": (
        0,
        r"making sem:radius=24/255 for digits +│ 3 .*em / adv-linf:radius=8/255,steps=5 on smallcnn +│ 3",
    ),
    "uebench run demo --noise em --protect 0.5,1 --dry-run": (0, r"em \(50% mixed\) / none .*em / none "),
    "uebench run demo --noise em --seed 0,1,2": (0, r"em / adv-linf on smallcnn +│ 3 "),
    "uebench run demo --noise mine": (2, "unknown noise 'mine'"),
    "uebench run demo --plugin mine.py --noise mine": (2, "mine.py"),
    "uebench run demo-pretrained --seed 0,1,2 --target finetune:weights=$W --target linear-probe:weights=$W": (
        2,
        "cannot read mobilenet_v2.safetensors: No such file",
    ),
    "uebench run demo-vit --seed 0,1,2": (0, r"sem / none on vit-small +│ 3 "),
    "uebench run rem-table4 --dataset cifar10 --dry-run": (0, r"making rem.* for cifar10"),
    "uebench site": (0, r"index\.html"),
    'uebench submit demo --breaker jpeg --noise rem --into jpeg.zip --name "Ada Example"': (2, "the entry lacks "),
    'uebench submit demo --noise em --into em.zip --name "Ada Example"': (2, "the entry lacks "),
    "uebench suites": (0, r"│ demo .*│ rem-table1 "),
    "uebench verify em.zip --rerun 3": (2, "em.zip is not a file"),
    'uebench withdraw demo --noise em --reason "made from test images"': (2, "suite demo lists no noise 'em'"),
}
"""By documented command: its exit status and its output, with a plan in place of hours of work, and without files."""
SHORTENED = {"run": ["--dry-run"], "bench": ["--seconds", "0"]}


def call(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, words)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def test_every_documented_command_is_below() -> None:
    assert sorted(OUTPUTS) == COMMANDS


@pytest.mark.parametrize("line", COMMANDS)
def test_a_documented_command_prints_what_it_should(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(line.replace("$W", "mobilenet_v2.safetensors"))[1:]
    monkeypatch.chdir(tmp_path)
    if words[0] in SHORTENED and words[-1] != "--dry-run":
        words += SHORTENED[words[0]]
    if words[0] in ("rank", "plot"):
        board = tmp_path / "leaderboards" / "demo"
        board.mkdir(parents=True)
        lines = (ROOT / "leaderboards" / "demo" / "results.jsonl").read_text().splitlines(keepends=True)
        few = [line for line in lines if json.loads(line)["noise"] in ("none", "ntga-pgd")]
        (board / "results.jsonl").write_text("".join(few))
    if words[0] == "site":
        words += ["--boards", str(ROOT / "leaderboards"), "--into", str(tmp_path / "site")]
    if words[0] in ("submit", "withdraw"):
        (tmp_path / "leaderboards").mkdir()
    status, output = call(*words)
    expected_status, pattern = OUTPUTS[line]
    assert re.search(pattern, output, re.DOTALL), output
    assert status == expected_status
    if words[0] == "site":
        assert "ntga-pgd" in (tmp_path / "site" / "index.html").read_text()
    if words[0] == "new":
        assert (tmp_path / "mine" / "pyproject.toml").exists() or list(tmp_path.glob("*mine*"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the store of a finished run of one noise."""
    folder = tmp_path_factory.mktemp("finished")
    words = ["--noise", "em", "--workers", "1", "--store", str(folder / "store"), "--boards", str(folder)]
    status, output = call("run", str(TINY), *words)
    assert status == 0, output
    assert re.search(r"your results: digits.*│ em +│.*Board: ", output, re.DOTALL)
    return folder


def plan(*words: str) -> str:
    """Return what a dry run of the tiny suite prints."""
    status, output = call("run", str(TINY), *words, "--dry-run")
    assert status == 0, output
    return output


Check = Callable[[Path], object]


def matches(pattern: str, *words: str) -> Check:
    """Return a check of what the tiny suite's run prints, with the store that has its cells."""

    def check(folder: Path) -> object:
        _, output = call("run", str(TINY), *words, "--store", str(folder / "store"), "--boards", str(folder))
        return re.search(pattern, output, re.DOTALL) or pytest.fail(output)

    return check


def json_of(*words: str) -> Check:
    """Return a check that a command prints one JSON document, which is not empty."""

    def check(folder: Path) -> object:
        where = ["--store", str(folder / "store")] if words[0] in ("run", "rank") else []
        done = CliRunner().invoke(main, [*words, *where])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout) or pytest.fail("an empty document")

    return check


def quiet_run(folder: Path) -> object:
    """Check that a quiet run prints results and no progress."""
    words = ["--noise", "none", "--breaker", "none", "--seed", "7", "--workers", "1", "--store", str(folder / "quiet")]
    _, output = call("run", str(TINY), *words, "--boards", str(folder), "--quiet")
    assert "start  " not in output
    return "your results" in output or pytest.fail(output)


def share_of_board(record: str) -> Check:
    """Return a check of the board of a record."""

    def check(folder: Path) -> object:
        words = ["--store", str(folder / "store"), "--boards", str(folder), "--record", record]
        status, output = call("rank", str(TINY), *words)
        return (status == 0 and re.search(r"│ em +│", output)) or pytest.fail(output)

    return check


def table_in_a_document(folder: Path) -> object:
    """Check that `rank --into` fills the marked part of a document."""
    document = folder / "document.md"
    document.write_text(f"Text.\n\n<!-- board: {TINY.stem} -->\n<!-- end -->\n")
    words = ["--store", str(folder / "store"), "--boards", str(folder), "--record", "own", "--into", str(document)]
    status, output = call("rank", str(TINY), *words)
    return (status == 0 and "| em |" in document.read_text()) or pytest.fail(output)


def plug_in_file(folder: Path) -> object:
    """Check that the README's noise runs from its file."""
    (folder / "my_noise.py").write_text(blocks("python")[0])
    words = ["--plugin", str(folder / "my_noise.py"), "--noise", "stamp", "--store", str(folder / "store")]
    command = [sys.executable, "-m", "uebench", "run", str(TINY), *words, "--boards", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)  # a process of its own: a plug-in stays registered
    return re.search(r"│ stamp +│", done.stdout) or pytest.fail(done.stdout + done.stderr)


def ray_address(folder: Path) -> bool:
    """Check that the address reaches the part that connects to a cluster."""
    addresses = list[str]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "run_on_ray", lambda plan, queue, worker, address, *more: addresses.append(address))
        words = ["--executor", "ray", "--ray-address", "head:6379", "--store", str(folder / "ray")]
        call("run", str(TINY), *SMALL, *words, "--boards", str(folder))
    return addresses == ["head:6379"]


SMALL = ("--noise", "none", "--breaker", "none", "--workers", "1")
OPTIONS: dict[str, Check] = {
    "--breaker": lambda folder: re.search(r"em / jpeg on", plan("--noise", "em", "--breaker", "jpeg")),
    "--dataset": lambda folder: re.search(r"making em for digits:pad=2", plan("--dataset", "digits:pad=2")),
    "--device": matches(r"no device 'cuda:77' here", *SMALL, "--device", "cuda:77"),
    "--dry-run": lambda folder: re.search(r"9 of 9 jobs to do", plan()),
    "--format": json_of("compare", "rem-table1", "--format", "json"),
    "--into": table_in_a_document,
    "--json": json_of("run", str(TINY), "--noise", "em", "--json"),
    "--kind": lambda folder: re.search(r"50% clean-only", plan("--protect", "0.5", "--kind", "clean-only")),
    "--noise": lambda folder: re.search(r"making rem for digits", plan("--noise", "rem")),
    "--patience": matches(r"your results", *SMALL, "--patience", "100"),
    "--plugin": plug_in_file,
    "--protect": lambda folder: re.search(r"em \(25% mixed\) /", plan("--protect", "0.25")),
    "--quiet": quiet_run,
    "-q": quiet_run,
    "--ray-address": ray_address,
    "--recipe": lambda folder: re.search(r"│ 640 ", plan("--recipe", "paper:steps=10,batch=64")),
    "--record": share_of_board("own"),
    "--seed": lambda folder: re.search(r"making em for digits +│ 3 ", plan("--seed", "4,5,6")),
    "--store": lambda folder: (folder / "store" / "boards" / TINY.stem / "results.jsonl").exists(),
    "--target": lambda folder: re.search(r"em / none on resnet8", plan("--target", "resnet8")),
    "--threads": matches(r"none / none on smallcnn.*your results", *SMALL, "--seed", "8", "--threads", "2"),
    "--verbose": matches(
        r"step +none / none.* of 1500.* steps/s", *SMALL, "--recipe", "paper:steps=1500,batch=64", "--verbose"
    ),
    "-v": matches(r"\[1 of 1 cells\]", *SMALL, "--seed", "9", "-v"),
    "--workers": matches(r"\[2 of 2 cells\]", *SMALL, "--seed", "10,11", "--workers", "2"),
}
"""By option: a check that its output shows its effect."""
ELSEWHERE = {
    "--executor": "executors/test_ray.py",
    "--name": "submission/test_decisions.py",
    "--reason": "submission/test_decisions.py",
    "--rerun": "submission/test_verify.py",
    "--with-noise": "submission/test_decisions.py",
    "--repository": "site/test_downloads.py",
    "--threat": "board/test_threat_classes.py",
}
"""By option: the test that runs it and compares its output."""
FOREIGN = {"--array", "--gpus", "--wrap", "--no-deps", "-c", "-d", "-e", "-m", "-o", "-p"}
"""Options of other programs."""


def test_every_documented_option_is_below() -> None:
    for option, file in ELSEWHERE.items():
        assert f'"{option}' in (ROOT / "tests" / file).read_text()
    named = {
        option
        for text in TEXTS.values()
        for option in re.findall(r"(?<![\w-])(--[a-z][a-z-]+|-[a-z]\b)", text)
        if not text.startswith("# Findings") or option in OPTIONS
    }
    assert named - FOREIGN <= set(OPTIONS) | set(ELSEWHERE), "give each new option a check"


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_shows_in_the_output(option: str, finished: Path) -> None:
    assert OPTIONS[option](finished)


@pytest.mark.parametrize(
    "words",
    [
        ("rank", str(TINY), "--record", "own", "--json"),
        ("plugins", "--json"),
        ("suites", "--json"),
        ("check", "none", "--json"),
    ],
    ids=lambda words: words[0],
)
def test_commands_print_one_json_document(words: tuple[str, ...], finished: Path) -> None:
    assert json_of(*words)(finished)


@pytest.mark.parametrize("record", ["own", "both"])
def test_a_board_of_each_record(record: str, finished: Path) -> None:
    assert share_of_board(record)(finished)
