"""A user's mistake: one clear line, status 2 (1 where nothing can be written), no traceback, nothing left behind."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.conftest import TINY
from tests.plugins.test_contract import pictures
from uebench.cli.main import main

RUN = ["run", str(TINY)]
NOISE, BREAKER, TARGET, DATASET = ([*RUN, f"--{kind}"] for kind in ("noise", "breaker", "target", "dataset"))

MISTAKES = {
    "unknown noise": ([*NOISE, "rme"], "unknown noise 'rme'; did you mean rem?"),
    "unknown breaker": ([*BREAKER, "adv-linff"], "unknown breaker 'adv-linff'; did you mean adv-linf?"),
    "unknown target": ([*TARGET, "resnet19"], "unknown target 'resnet19'; did you mean resnet18?"),
    "unknown data set": ([*DATASET, "digit"], "unknown dataset 'digit'; did you mean digits?"),
    "nothing near": ([*NOISE, "zzz"], "unknown noise 'zzz'; known: ar, cuda, em, em-classwise, em-rem, file,"),
    "unknown suite": (["run", "demoo"], "unknown suite 'demoo'; did you mean demo?"),
    "unknown parameter": ([*NOISE, "rem:raduis=8/255"], "noise rem has no parameter 'raduis'; did you mean radius?"),
    "unknown surrogate": ([*NOISE, "rem:surrogate=smalcnn"], "unknown target 'smalcnn'; did you mean smallcnn?"),
    "unknown choice": ([*NOISE, "rem:schedule=stp"], "schedule cannot be 'stp'; did you mean step?"),
    "text for a number": ([*NOISE, "rem:radius=big"], "radius must be a number or a fraction such as 8/255, not 'big'"),
    "text for a count": ([*NOISE, "rem:steps=many"], "steps must be a whole number, not 'many'"),
    "fraction for a count": ([*NOISE, "rem:steps=2.5"], "steps must be a whole number, not '2.5'"),
    "division by zero": ([*NOISE, "rem:radius=8/0"], "radius must be a number; it divides by zero, not '8/0'"),
    "two slashes": ([*NOISE, "rem:radius=8/2/2"], "radius must be a number or a fraction such as 8/255"),
    "negative": ([*NOISE, "rem:radius=-8/255"], "radius must be above 0, not -0.0313725"),
    "zero noise": ([*NOISE, "rem:radius=0"], "radius must be above 0, not 0"),
    "more than the pixel range": ([*NOISE, "rem:radius=8"], "radius must be at most 1, not 8"),
    "negative attack": ([*BREAKER, "adv-linf:radius=-1/255"], "radius must be at least 0"),
    "not a number": ([*NOISE, "rem:radius=nan"], "radius must be a finite number, not 'nan'"),
    "infinite": ([*NOISE, "rem:lr=inf"], "lr must be a finite number, not 'inf'"),
    "overflow": ([*NOISE, "rem:lr=1e999"], "lr must be a finite number, not '1e999'"),
    "a parameter twice": ([*NOISE, "rem:steps=3,steps=4"], "steps is given twice in 'rem:steps=3,steps=4'"),
    "empty noise": ([*NOISE, ""], "'' is not a component"),
    "blank noise": ([*NOISE, "  "], "'  ' is not a component"),
    "upper case": ([*NOISE, "REM"], "'REM' is not a component"),
    "only a colon": ([*NOISE, "rem:"], "'rem:' ends after the colon: expected key=value"),
    "no value": ([*NOISE, "rem:radius="], "'radius=' in 'rem:radius=' is not a parameter: expected key=value"),
    "no equals sign": ([*NOISE, "rem:radius"], "'radius' in 'rem:radius' is not a parameter"),
    "no key": ([*NOISE, "rem:=3"], "'=3' in 'rem:=3' is not a parameter"),
    "trailing comma": ([*NOISE, "rem:steps=3,"], "'' in 'rem:steps=3,' is not a parameter"),
    "parentheses": ([*NOISE, "rem:surrogate=(smallcnn"], "unbalanced parentheses"),
    "a gap in a chain": ([*BREAKER, "adv-linf+"], "'' is not a component"),
    "two attacks": ([*BREAKER, "adv-linf+adv-linf:radius=1/255"], "at most one attack, not adv-linf and adv-linf"),
    "an attack in each of two norms": ([*BREAKER, "adv-l2+adv-l1"], "at most one attack, not adv-l2 and adv-l1"),
    "two that choose": ([*BREAKER, "best-of+best-of"], "at most one breaker that chooses, not best-of and best-of"),
    "two attacks by choice": ([*BREAKER, "adv-linf+best-of:of=none/adv-l2"], "one attack, not adv-linf and adv-l2"),
    "a choice of choices": (
        [*BREAKER, "best-of:of=none/best-of"],
        "best-of cannot choose best-of, which chooses itself",
    ),
    "a choice of one": ([*BREAKER, "best-of:of=jpeg"], "best-of: `of` needs two breakers or more"),
    "lacking parentheses": ([*BREAKER, "best-of:of=none/jpeg:quality=3"], "'jpeg:quality=3' in of is not a component"),
    "even filter": ([*BREAKER, "lowpass-mean:size=4"], "lowpass-mean: size must be odd, not 4"),
    "even filter in a chain": ([*BREAKER, "lowpass-median:size=2+adv-linf"], "lowpass-median: size must be odd, not 2"),
    "unknown norm": ([*BREAKER, "adv-l3"], "unknown breaker 'adv-l3'; did you mean adv-l"),
    "unknown attack": ([*BREAKER, "adv-linf:method=pgdd"], "method cannot be 'pgdd'; did you mean pgd?"),
    "an attack for one norm only": ([*BREAKER, "adv-l2:method=apgd"], "method cannot be 'apgd'"),
    "nothing protected": ([*RUN, "--protect", "0"], "a protected share must lie in (0, 1], not 0"),
    "more than all protected": ([*RUN, "--protect", "0.5,1.2"], "a protected share must lie in (0, 1], not 1.2"),
    "share of letters": ([*RUN, "--protect", "half"], "share must be a number or a fraction"),
    "unknown recipe": ([*RUN, "--recipe", "fsat"], "recipe: unknown family 'fsat'; did you mean fast?"),
    "unknown in a recipe": ([*RUN, "--recipe", "fast:step=3"], "recipe has no parameter 'step'; did you mean steps?"),
    "no step": ([*RUN, "--recipe", "fast:steps=0"], "steps must be at least 1, not 0"),
    "yes or no": ([*DATASET, "folder:path=.,flip=maybe"], "flip must be true or false, not 'maybe'"),
    "no path": ([*DATASET, "folder"], "dataset folder needs path=... (folder that holds train/ and test/)"),
    "missing folder": ([*DATASET, "folder:path=nowhere"], "nowhere/train is missing or has no folder per class"),
    "negative seed": ([*RUN, "--seed=-1"], "a seed must lie in 0 .. 2^32 - 1, not -1"),
    "seed of letters": ([*RUN, "--seed", "one"], "expected whole numbers separated by commas, not 'one'"),
    "empty seed": ([*RUN, "--seed", ""], "expected whole numbers separated by commas, not ''"),
    "a seed twice": ([*RUN, "--seed", "1,1"], "a seed is given twice in 1,1"),
    "no workers": ([*RUN, "--workers", "0"], "0 is not in the range x>=1"),
    "workers of letters": ([*RUN, "--workers", "two"], "'two' is not a valid integer range"),
    "unknown device": ([*RUN, "--device", "tpu"], "no device 'tpu' here; did you mean cpu?"),
    "unknown option": ([*RUN, "--nosie", "rem"], "No such option"),
    "unknown command": (["runn"], "No such command 'runn'"),
    "suite file missing": (["run", "nowhere.toml"], "cannot read suite nowhere.toml: No such file"),
    "nothing to rank": (["rank", str(TINY)], "holds no results; run `uebench run "),
    "nothing to draw": (["plot", str(TINY)], "holds no results; run `uebench run "),
    "no suite to draw": (["plot", "demoo"], "unknown suite 'demoo'; did you mean demo?"),
    "nothing to check": (["check", "remm"], "no component is called 'remm'; did you mean rem?"),
    "nothing to list": (["plugins", "remm"], "no component is called 'remm'; did you mean rem?"),
}


@pytest.fixture
def refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    monkeypatch.chdir(tmp_path)

    def command(words: list[str], expected: str, status: int = 2) -> None:
        before = sorted(tmp_path.rglob("*"))
        done = CliRunner().invoke(main, words)
        assert done.exit_code == status, done.output
        lines = done.output.splitlines()
        assert len(lines) == 1, done.output
        assert lines[0].startswith("Error: ")
        assert expected in lines[0]
        assert sorted(tmp_path.rglob("*")) == before, "something was written"

    return command


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_on_the_command_line_is_one_clear_line(mistake: str, refuse: Callable[..., None]) -> None:
    refuse(*MISTAKES[mistake])


SUITE = {
    "no TOML": ("datasets = [", "is no TOML"),
    "misspelt key": ('nosies = ["em"]', "the suite has no key 'nosies'; did you mean noises?"),
    "misspelt table": ("[recipes]", "the suite has no key 'recipes'; did you mean recipe?"),
    "misspelt recipe": ("[recipe]\nstep = 3", "recipe has no key 'step'; did you mean steps?"),
    "misspelt family": ('[recipe]\nfamily = "papr"', "recipe: unknown family 'papr'; did you mean paper?"),
    "misspelt key of a grid": ('[[grid]]\nbraekers = ["none"]', "a grid has no key 'braekers'; did you mean breakers?"),
    "share in a suite": ("protected = [0.5, 0]", "a protected share must lie in (0, 1], not 0"),
    "misspelt share kind": ('kind = "mixd"', "kind cannot be 'mixd'; did you mean mixed?"),
    "misspelt kind": ("[defaults.nois.em]\nsteps = 3", "defaults has no key 'nois'; did you mean noise?"),
    "misspelt default": ("[defaults.noise.em]\nstps = 3", "noise em has no parameter 'stps'; did you mean steps?"),
    "wrong type": ("[recipe]\nlr = true", "lr must be a number, not True"),
    "out of range": ("[recipe]\nsteps = 0", "steps must be at least 1, not 0"),
    "seeds beyond what is drawn from": ("seeds = [4294967296]", "Expected `int` <= 4294967295 - at `$.seeds[0]`"),
    "seeds of letters": ('seeds = ["a"]', "Expected `int`, got `str` - at `$.seeds[0]`"),
    "floor": ("floor = 2", "Expected `float` <= 1.0 - at `$.floor`"),
    "like what is unknown": ('like = "demoo"', "unknown suite 'demoo'; did you mean demo?"),
    "like a number": ("like = 3", "Expected `str | null`, got `int` - at `$.like`"),
    "like itself": ('like = "mine.toml"', "suite mine.toml: like = 'mine.toml' leads back to it"),
    "like what is missing": ('like = "other.toml"', "cannot read suite other.toml: No such file"),
    "like one, and wrong": ('like = "demo"\ndefaults = 3', "Expected `object`, got `int` - at `$.defaults`"),
    "required": ('[required]\nbreakers = "none"', "Expected `array | null`, got `str` - at `$.required.breakers`"),
}


@pytest.mark.parametrize("mistake", SUITE)
def test_a_mistake_in_a_suite_is_named(mistake: str, refuse: Callable[..., None], tmp_path: Path) -> None:
    lists = 'title = "t"\ndatasets = ["digits"]\nnoises = ["em"]\nbreakers = ["none"]\ntargets = ["smallcnn"]\n'
    (tmp_path / "mine.toml").write_text(lists + SUITE[mistake][0])
    refuse(["run", "mine.toml"], SUITE[mistake][1])


def test_a_suite_without_a_list_is_refused(refuse: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('title = "t"\ndatasets = ["digits"]\n')
    refuse(["run", "mine.toml"], "noises is missing")


def test_an_empty_class_is_named(refuse: Callable[..., None], tmp_path: Path) -> None:
    (pictures(tmp_path / "set") / "train" / "cow").mkdir()
    refuse([*DATASET, "folder:path=set"], "class set/train/cow holds no image")


def test_classes_that_differ_are_named(refuse: Callable[..., None], tmp_path: Path) -> None:
    cow = pictures(tmp_path / "set") / "train" / "cow"
    cow.mkdir()
    (tmp_path / "set" / "train" / "cat" / "0.png").rename(cow / "0.png")
    refuse([*DATASET, "folder:path=set"], "train/ and test/ of set differ in classes: cow")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{", "results.jsonl line 1: Input data was truncated"),
        ("[]", "results.jsonl line 1: Expected `object`, got `array`"),
        ('{"schema": 9}', "line 1 has schema 9; this version reads 1"),
        ('{"schema": 1}', "line 1: Object missing required field `key`"),
    ],
)
def test_a_broken_record_is_reported_before_any_work(
    line: str, expected: str, refuse: Callable[..., None], tmp_path: Path
) -> None:
    (tmp_path / "leaderboards" / "tiny").mkdir(parents=True)
    (tmp_path / "leaderboards" / "tiny" / "results.jsonl").write_text(line + "\n")
    refuse(RUN, expected)


def test_a_store_that_cannot_be_written_is_status_1(refuse: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refuse([*RUN, "--store", "file"], "cannot write file/.gitignore", status=1)


def test_boards_that_cannot_be_written_are_status_1(refuse: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refuse([*RUN, "--boards", "file"], "cannot read file/tiny/results.jsonl")


def test_an_unreadable_picture_is_named_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (pictures(tmp_path / "set") / "train" / "dog" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    options = ["--dataset", "folder:path=set,size=8", "--noise", "none", "--breaker", "none", "--workers", "1"]
    done = CliRunner().invoke(main, [*RUN, *options])
    assert done.exit_code == 2
    assert "cannot read set/train/dog/1.png" in done.output
    assert "start" not in done.output
    assert "Traceback" not in done.output
    assert not (tmp_path / "leaderboards").exists()


def test_a_network_that_cannot_be_built_is_named_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, [*RUN, "--target", "smallcnn", "--target", "vit-small:patch=3", "--workers", "1"])
    assert done.exit_code == 2
    assert done.output == "Error: vit-small: images must be squares of a multiple of 3 pixels, not 8x8\n"
    assert not (tmp_path / "leaderboards").exists()


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    """A limit on file size stands for the full disk: writes fail in the same place, with another word."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = subprocess.run(
        [sys.executable, "-m", "uebench.cli", *RUN, "--workers", "1", "--noise", "none"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=limit,
        check=False,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: cannot write .uebench/done/")
    assert "File too large" in line
    assert "Traceback" not in done.stdout + done.stderr
    assert not (tmp_path / "leaderboards").exists()
    assert not [path for path in (tmp_path / ".uebench" / "done").rglob("*") if path.is_file()]
