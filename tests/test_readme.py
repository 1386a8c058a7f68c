"""What README and findings say is so: tables follow from the committed record, commands parse, the plug-in works."""

from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.conftest import ROOT
from uebench.authoring.check import check_component
from uebench.board.publish import GALLERY, insert_tables, publish_board, write_index
from uebench.board.ranking import rank_results
from uebench.cli.main import main
from uebench.components.registry import registry
from uebench.planning.plan import plan_selection
from uebench.planning.selection import select_components
from uebench.planning.suite_file import read_suite
from uebench.site.documents import heading_anchor
from uebench.storage.history import current_rulings, read_history
from uebench.storage.results_file import read_results

README = (ROOT / "README.md").read_text()
DOCS = ROOT / "uebench" / "site" / "docs"
DOCUMENTS = {
    path: path.read_text()
    for path in (ROOT / "README.md", ROOT / "leaderboards" / "FINDINGS.md", *sorted(DOCS.glob("*.md")))
}
"""What people wrote, with tables in it."""
BOARDS = [path.parent.name for path in sorted((ROOT / "leaderboards").glob("*/results.jsonl"))]


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_there_are_two_set_up_commands_and_ci_runs_the_second() -> None:
    first, second = (block.strip() for block in blocks("sh")[:2])
    assert first.startswith("python3 -m venv ")
    assert first.endswith("uebench run --noise rem --breaker adv-linf")
    assert second.endswith("python -m pytest")
    assert re.findall(r"^.*python -m pytest$", README, re.MULTILINE) == [second]


@pytest.mark.parametrize("name", BOARDS)
def test_committed_boards_and_the_tables_in_documents_follow_from_the_record(name: str, tmp_path: Path) -> None:
    chosen, folder = read_suite(name), ROOT / "leaderboards" / name
    rulings = current_rulings(read_history(folder))
    boards = rank_results(chosen, read_results(folder / "results.jsonl").values(), rulings)
    if (folder / GALLERY).is_dir():  # comes with the noises, not from the record
        shutil.copytree(folder / GALLERY, tmp_path / GALLERY)
    publish_board(tmp_path, chosen, boards)
    for path in tmp_path.glob("*.*"):
        assert path.read_bytes() == (folder / path.name).read_bytes(), f"run `uebench rank {name}`"
    holding = [path for path, text in DOCUMENTS.items() if f": {name} -->" in text]
    assert holding
    for path in holding:
        copy = tmp_path / "copy.md"
        copy.write_text(DOCUMENTS[path])
        insert_tables(copy, chosen, boards)
        assert copy.read_text() == DOCUMENTS[path], f"run `uebench rank {name} --into {path.relative_to(ROOT)}`"


def test_links_lead_somewhere() -> None:
    for path, text in DOCUMENTS.items():
        for link in re.findall(r"\]\((?!\w+://)([^)]+)\)", text):
            file, _, heading = link.partition("#")
            there = (path.parent / file).resolve() if file else path
            assert there.exists(), f"{path}: {link}"
            if heading:
                headings = re.findall("^#+ (.*)", there.read_text(), re.MULTILINE)
                assert heading in map(heading_anchor, headings), f"{path}: {link}"


def test_the_list_of_boards_is_the_generated_one(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "leaderboards", tmp_path, dirs_exist_ok=True)
    write_index(tmp_path)
    assert (tmp_path / "README.md").read_bytes() == (ROOT / "leaderboards" / "README.md").read_bytes()


def test_every_committed_file_is_rebuilt_to_the_same_bytes_from_record_history_and_pictures(tmp_path: Path) -> None:
    sources = [path for path in board_files(ROOT / "leaderboards") if path.suffix in (".jsonl", ".png")]
    built = []
    for turn in ("one", "two"):
        for path in sources:
            copy = tmp_path / turn / path.relative_to(ROOT / "leaderboards")
            copy.parent.mkdir(parents=True, exist_ok=True)
            lines = path.read_bytes().splitlines(keepends=True)
            unsorted = turn == "two" and path.name == "results.jsonl"
            copy.write_bytes(b"".join(reversed(lines)) if unsorted else path.read_bytes())
        for name in BOARDS:
            done = CliRunner().invoke(main, ["rank", name, "--boards", str(tmp_path / turn)])
            assert done.exit_code == 0, done.output
        files = board_files(tmp_path / turn)
        built.append({str(path.relative_to(tmp_path / turn)): path.read_bytes() for path in files})
        built[-1] = {name: content for name, content in built[-1].items() if not name.endswith("results.jsonl")}
    committed = {str(path.relative_to(ROOT / "leaderboards")): path for path in board_files(ROOT / "leaderboards")}
    assert built[0] == built[1]
    assert built[0] == {name: path.read_bytes() for name, path in committed.items() if path.name != "results.jsonl"}


def board_files(boards: Path) -> list[Path]:
    """Return every file of boards but what people wrote, and those that are never committed."""
    found = [path for path in sorted(boards.rglob("*")) if path.is_file() and path not in DOCUMENTS]
    return [path for path in found if not {"site", "plots", "bench"} & set(path.relative_to(boards).parts)]


@pytest.mark.parametrize("name", BOARDS)
def test_committed_records_are_cells_that_the_suite_plans_today(name: str) -> None:
    records = read_results(ROOT / "leaderboards" / name / "results.jsonl")
    (content,) = {one.parameters["content"] for one in records.values()}
    datasets = [f"{text}:path=." if text == "folder" else text for text in read_suite(name).datasets]
    nothing, plain = registry().build("noise", "none"), registry().build("breaker", "none")
    cells = [
        cell
        for selection in select_components(
            read_suite(name), datasets=datasets, seeds=sorted({one.seed for one in records.values()})
        )
        for cell in plan_selection(selection, nothing, (plain,), [content]).cells  # type: ignore[arg-type]
    ]
    planned = {cell.key: cell.parameters for cell in cells}
    assert {key: planned.get(key) for key in records} == {key: one.parameters for key, one in records.items()}


def test_the_documented_use_from_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("python", DOCUMENTS[DOCS / "running.md"])
    names: dict[str, Any] = {}
    exec(code.replace("breakers=", 'recipe="paper:steps=5", breakers='), names)
    assert list(names["table"]["breaker"]) == ["adv-linf", "none"]
    assert names["protected"].shape == (1000, 1, 8, 8)


def test_the_readmes_plug_in_keeps_the_contract() -> None:
    (code,) = blocks("python")
    names: dict[str, type] = {}
    exec(code, names)
    findings = check_component("noise", names["Stamp"]())
    assert [one.rule for one in findings if not one.kept] == ["can be sent to a worker"], "it has no module here"
    (table,) = blocks("toml")
    assert tomllib.loads(table)["project"]["entry-points"]["uebench"] == {"stamp": "my_noise"}
