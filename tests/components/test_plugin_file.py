"""A plug-in that is one file takes part as a package does, in every process, and a wrong one is refused in a line."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from msgspec import structs

import uebench
from tests.conftest import TINY
from uebench import UserError
from uebench.cli.main import main
from uebench.components.plugin_file import read_plugin_file
from uebench.components.registry import registry
from uebench.storage.result import VARYING_FIELDS
from uebench.storage.results_file import read_results

HEAD = "import torch\nimport uebench\n\n\n"
CLASS = '''class Stamp(uebench.Noise):
    """Add one random pattern per class."""

    name = "stamp"
    paper = "none"

    def make(self, images, labels, context):
        signs = torch.randint(0, 2, (context.classes, *images.shape[1:]), device=context.device) * 2.0 - 1
        return self.radius * signs[labels]


'''
HOOK = "@uebench.hookimpl\ndef register_noises():\n    return [Stamp]\n"
STAMP = HEAD + CLASS + HOOK
RUN = ["run", str(TINY), "--noise", "stamp", "--breaker", "none"]
Call = Callable[..., Result]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Call]:
    """Call the command line in a fresh folder, each time with a registry that knows packages only."""
    monkeypatch.chdir(tmp_path)

    def command(*words: str) -> Result:
        registry.cache_clear()
        return CliRunner().invoke(main, words)

    yield command
    registry.cache_clear()


def numbers(path: Path) -> dict[str, dict[str, object]]:
    """Return the records of a board by key, without what may differ between two equal runs."""
    found = {key: structs.asdict(one) for key, one in read_results(path).items()}
    return {key: {name: one[name] for name in one if name not in VARYING_FIELDS} for key, one in found.items()}


def test_it_gives_the_same_record_wherever_it_lies_and_with_any_number_of_workers(call: Call, tmp_path: Path) -> None:
    for workers, place in ((1, "here"), (2, "some/where else")):
        (tmp_path / place).mkdir(parents=True)
        path = tmp_path / place / "my_noise.py"
        path.write_text(STAMP)
        store = ["--store", f"store{workers}", "--boards", f"boards{workers}"]
        done = call(*RUN, "--plugin", str(path), "--workers", str(workers), *store)
        assert done.exit_code == 0, done.output
        assert list(path.parent.iterdir()) == [path], "importing it leaves nothing behind"
    one, two = (tmp_path / f"store{workers}" / "boards" / "tiny" / "results.jsonl" for workers in (1, 2))
    assert {cell["noise"] for cell in numbers(one).values()} == {"none", "stamp"}
    assert numbers(one) == numbers(two)
    content = f"sha256:{hashlib.sha256(STAMP.encode()).hexdigest()}"
    for path in (one, two):
        (made,) = (cell for cell in read_results(path).values() if cell.noise == "stamp")
        assert made.made_with["plugins"]["my_noise.py"] == content


def test_an_edit_is_said_and_a_raised_version_is_run(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "my_noise.py"

    def run(text: str) -> list[str]:
        path.write_text(text)
        done = call(*RUN, "--plugin", "my_noise.py", "--workers", "1")
        assert done.exit_code == 0, done.output
        return [line.split(" ", 1)[1] for line in done.output.splitlines() if " start " in line or " note " in line]

    assert len(run(STAMP)) == 4
    assert run(STAMP) == []
    (note,) = run(STAMP + "# a remark\n")
    assert note.startswith("note   finished jobs were done with another content of my_noise.py; raise the version")
    raised = run(STAMP.replace('paper = "none"', 'paper = "none"\n    version = 2'))
    assert raised == ["start  making stamp for digits, seed 0", "start  stamp / none on smallcnn, seed 0"]


def test_it_is_listed_checked_and_exported(call: Call, tmp_path: Path) -> None:
    (tmp_path / "my_noise.py").write_text(STAMP)
    plugin = ["--plugin", "my_noise.py"]
    content = hashlib.sha256(STAMP.encode()).hexdigest()
    assert f"my_noise.py sha256:{content[:12]}" in call("plugins", *plugin).output
    assert "noise stamp version 1" in call("plugins", "stamp", *plugin).output
    done = call("check", "stamp", *plugin)
    assert done.exit_code == 0, done.output
    done = call("export", "out", "--noise", "stamp", "--dataset", "digits:test_images=1700", *plugin)
    assert done.exit_code == 0, done.output
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["made_with"]["plugins"]["my_noise.py"] == f"sha256:{content}"


def test_a_suites_required_components_may_come_from_it(call: Call, tmp_path: Path) -> None:
    """Ranking builds what a suite requires, so that it needs the file as well."""
    blank = "class Blank(uebench.Breaker):\n    name = 'blank'\n\n\n"
    hook = "@uebench.hookimpl\ndef register_breakers():\n    return [Blank]\n"
    (tmp_path / "blank.py").write_text(HEAD + blank + hook)
    suite = TINY.read_text().replace('"adv-linf"]', '"blank"]')
    (tmp_path / "mine.toml").write_text(suite)
    assert call("run", "mine.toml", "--noise", "none", "--plugin", "blank.py", "--workers", "1").exit_code == 0
    assert "unknown breaker 'blank'" in call("rank", "mine.toml").output
    assert call("rank", "mine.toml", "--plugin", "blank.py").exit_code == 0


def test_a_bug_in_it_is_shown_with_its_line(call: Call, tmp_path: Path) -> None:
    (tmp_path / "my_noise.py").write_text(STAMP.replace("        return self.radius", "        return self.radios"))
    done = call(*RUN, "--plugin", "my_noise.py", "--workers", "1")
    assert done.exit_code == 1
    assert "AttributeError: 'Stamp' object has no attribute 'radios'" in done.output
    assert 'my_noise.py", line 13, in make' in done.output


def test_what_is_loaded_is_what_was_read(tmp_path: Path) -> None:
    """A worker that starts after an edit has what the run began with, and the engine's own imports do not leak in."""
    path = tmp_path / "my_noise.py"
    path.write_text(STAMP + "\n\ndef plain(x: int): ...\n")
    file = read_plugin_file(path)
    path.write_text("raise RuntimeError")
    module = file.load()
    assert sys.modules[module.Stamp.__module__] is module
    assert module.plain.__annotations__ == {"x": int}
    assert module.__file__ == str(path)


WRONG = {
    "of a later interface": (
        f"uebench_interface = 2\n{STAMP}".encode(),
        "my_noise.py: it asks for version 2 of the plug-in interface; this uebench has 1",
    ),
    "of no interface": (f"uebench_interface = 'new'\n{STAMP}".encode(), "it asks for version 'new' of the plug-in"),
    "is a folder": (None, "cannot read plug-in file my_noise.py: Is a directory"),
    "a picture": (b"\x89PNG\r\n\x1a\n\0\0", "my_noise.py is not Python: "),
    "null bytes": (b"x = 1\0", "my_noise.py is not Python: source code string cannot contain null bytes"),
    "syntax": (b"import uebench\nclass Stamp(\n", "my_noise.py is not Python: '(' was never closed (line 2)"),
    "fails at import": (
        b"import uebench\n\n\ndef wrong():\n    return {}['key']\n\n\nwrong()\n",
        "my_noise.py, line 5: KeyError: 'key'",
    ),
    "lacks a package": (b"import nobody_has_this\n", "line 1: ModuleNotFoundError: No module named 'nobody_has_this'"),
    "two lines": (b"raise ValueError('one\\n two')\n", "my_noise.py, line 1: ValueError: one two"),
    "leaves": (b"import sys\nsys.exit(3)\n", "my_noise.py, line 2: SystemExit: 3"),
    "nothing": (b"", "my_noise.py: it implements no hook: mark one of register_noises, register_breakers,"),
    "no hook": (
        (HEAD + CLASS).encode(),
        "it implements no hook for Stamp: let register_noises, marked with @uebench.hookimpl, return [Stamp]",
    ),
    "a hook unmarked": ((HEAD + CLASS + HOOK.partition("\n")[2]).encode(), "it implements no hook for Stamp: let"),
    "a hook misspelt": (
        STAMP.replace("register_noises", "register_noise").encode(),
        "my_noise.py: there is no hook register_noise; did you mean register_noises?",
    ),
    "a hook that returns nothing": (STAMP.replace("[Stamp]", "[]").encode(), "its hooks return no component"),
    "a hook that fails": (STAMP.replace("[Stamp]", "[Stmp]").encode(), "NameError: name 'Stmp' is not defined"),
    "another kind": (STAMP.replace("register_noises", "register_targets").encode(), "not a subclass of uebench.Target"),
    "a name that is taken": (
        STAMP.replace('"stamp"', '"rem"').encode(),
        "my_noise.py: the noise name rem is taken by uebench ",
    ),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_file_is_one_clear_line_before_any_work(mistake: str, call: Call, tmp_path: Path) -> None:
    content, expected = WRONG[mistake]
    path = tmp_path / "my_noise.py"
    path.mkdir() if content is None else path.write_bytes(content)
    refused(call(*RUN, "--plugin", "my_noise.py"), expected)
    assert list(tmp_path.iterdir()) == [path]


def refused(done: Result, expected: str) -> None:
    assert done.exit_code == 2, done.output
    (line,) = done.output.splitlines()
    assert line.startswith("Error: ")
    assert expected in line


@pytest.mark.parametrize(
    "words",
    [["run"], ["export", "out"], ["rank"], ["plugins"], ["check", "stamp"]],
    ids=lambda words: words[0],
)
def test_every_command_that_builds_components_takes_it_and_misses_it(words: list[str], call: Call) -> None:
    refused(call(*words, "--plugin", "nowhere.py"), "cannot read plug-in file nowhere.py: No such file or directory")


def test_two_files_of_one_name_are_refused_and_one_given_twice_is_not(call: Call, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    for folder, name in ((tmp_path, "stamp"), (tmp_path / "other", "stamp-two")):
        (folder / "my_noise.py").write_text(STAMP.replace('"stamp"', f'"{name}"'))
    both = ["--plugin", "my_noise.py", "--plugin", "other/my_noise.py"]
    refused(
        call(*RUN, *both), f"two plug-in files have the same name; rename {tmp_path}/my_noise.py or {tmp_path}/other"
    )
    assert call("plugins", "stamp", "--plugin", "my_noise.py", "--plugin", f"{tmp_path}/my_noise.py").exit_code == 0


def test_a_file_that_fails_leaves_no_module_behind(tmp_path: Path) -> None:
    (tmp_path / "fails.py").write_text("1 / 0\n")
    with pytest.raises(UserError, match="ZeroDivisionError"):
        read_plugin_file(tmp_path / "fails.py").load()
    assert not [name for name in sys.modules if "fails" in name]


def test_a_plug_in_may_ask_for_the_version_of_the_interface(call: Call, tmp_path: Path) -> None:
    (tmp_path / "my_noise.py").write_text(f"uebench_interface = {uebench.INTERFACE_VERSION}\n{STAMP}")
    assert call("plugins", "stamp", "--plugin", "my_noise.py").exit_code == 0
