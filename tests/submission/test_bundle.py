"""The form of a bundle: the same bytes each time, every byte accounted for, and hostile files refused, each by name."""

from __future__ import annotations

import io
import json
import stat
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from click.testing import CliRunner

from tests.conftest import TINY
from tests.submission.factory import Forger, contents, digest, handed_in, manifest, put_on_board, results, usual, zipped
from uebench import UserError
from uebench.cli.main import main
from uebench.storage.result import Result
from uebench.storage.strict_json import StrictStruct, check_shape
from uebench.submission.bundle import content_sha256, read_bundle, write_bundle

KEY = "0" * 32
IMAGES = f"noise/{KEY}.safetensors"


@pytest.fixture(scope="module")
def made() -> list[Result]:
    return results("em")


def test_what_was_written_is_read(made: list[Result], tmp_path: Path) -> None:
    path = handed_in(tmp_path / "em.zip", made, "em")
    found = read_bundle(path)
    assert list(found.results) == made
    assert {name: value for name, value in found.manifest.items() if name != "members"} == manifest(made, "em")
    assert found.sha256 == digest(path.read_bytes())


def test_equal_results_make_equal_bytes_in_any_order(made: list[Result], tmp_path: Path) -> None:
    first = handed_in(tmp_path / "one.zip", made, "em").read_bytes()
    write_bundle(tmp_path / "two.zip", manifest(made, "em"), reversed(made), {})
    assert (tmp_path / "two.zip").read_bytes() == first
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert archive.testzip() is None
        assert {one.date_time for one in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert archive.namelist() == sorted(archive.namelist())


def test_an_existing_file_is_not_overwritten(made: list[Result], tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(UserError, match="mine exists"):
        handed_in(tmp_path / "mine", made, "em")
    assert contents(tmp_path) == {tmp_path / "mine": b"precious"}


def test_released_images_go_along_and_must_be_those_of_the_manifest(made: list[Result], tmp_path: Path) -> None:
    images = tmp_path / "released.safetensors"
    safetensors.torch.save_file({"images": torch.zeros(2, 3, 4, 4, dtype=torch.uint8)}, images)
    says = {**manifest(made, "em"), "released": {KEY: content_sha256(images)}}
    write_bundle(tmp_path / "one.zip", says, made, {KEY: images})
    assert read_bundle(tmp_path / "one.zip").manifest["members"][IMAGES]["sha256"] == digest(images.read_bytes())
    write_bundle(tmp_path / "two.zip", {**says, "released": {}}, made, {KEY: images})
    with pytest.raises(UserError, match=f"{IMAGES} is no released noise of the manifest"):
        read_bundle(tmp_path / "two.zip")


def test_no_byte_can_be_changed_added_or_left_out(made: list[Result], tmp_path: Path) -> None:
    path, few = tmp_path / "em.zip", made[:1]
    whole = handed_in(path, few, "em").read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(UserError):
            read_bundle(path)
    for place in range(0, len(whole), 97):
        for other in (whole[:place], whole[:place] + b"\0" + whole[place:], whole[place + 1 :]):
            path.write_bytes(other)
            with pytest.raises(UserError):
                read_bundle(path)


Hostile = Callable[[Forger], object]


def member(name: str, **fields: object) -> Hostile:
    """Add a member of this name."""
    return lambda one: zipped(one.path, {**one.members(), name: b"x"}, **fields)


def patched(old: bytes, new: bytes, count: int = -1) -> Hostile:
    """Replace bytes of a bundle that is right."""

    def change(one: Forger) -> None:
        whole = one.write()
        assert old in whole
        one.path.write_bytes(whole.replace(old, new, count))

    return change


def around(before: bytes = b"", behind: bytes = b"") -> Hostile:
    return lambda one: one.path.write_bytes(before + one.write() + behind)


def says(**fields: object) -> Hostile:
    """Change fields of the manifest."""

    def change(one: Forger) -> None:
        one.manifest |= fields
        one.write()

    return change


def raw(text: bytes) -> Hostile:
    return lambda one: one.write(says=text)


def named(text: str) -> Hostile:
    """Give the submitter a name, as JSON has it."""

    def change(one: Forger) -> None:
        whole = one.members()["manifest.json"]
        assert b'"Ada Example"' in whole
        one.write(says=whole.replace(b'"Ada Example"', text.encode()))

    return change


def picture(content: bytes) -> Hostile:
    """Pack these bytes as released images."""

    def change(one: Forger) -> None:
        one.images = {IMAGES: content}
        one.manifest["released"] = {KEY: digest(content)}
        one.write()

    return change


def tensors(header: object, size: int, length: int | None = None) -> Hostile:
    text = json.dumps(header).encode()
    return picture(struct.pack("<Q", len(text) if length is None else length) + text + bytes(size))


def array(dtype: str = "U8", shape: tuple[int, ...] = (2, 1, 3, 3), end: int = 18) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}


def truncated(one: Forger) -> None:
    one.path.write_bytes(one.write()[:-30])


def twice(one: Forger) -> None:
    with zipfile.ZipFile(one.path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the duplicate
        for name in ("manifest.json", "results.jsonl", "results.jsonl"):
            archive.writestr(usual(name), one.members()[name])


def prefixed(one: Forger) -> None:
    """Write the zip behind a script, with all its offsets right."""
    one.path.write_bytes(b"#!/bin/sh\n")
    with zipfile.ZipFile(one.path, "a") as archive:
        for name, content in sorted(one.members().items()):
            archive.writestr(usual(name), content)


def hidden(one: Forger) -> None:
    """Put bytes between the last member and the list of members, with all offsets right."""
    whole = one.write()
    *_, length, start, _ = struct.unpack("<4s4H2LH", whole[-22:])
    end = whole[-22:-6] + struct.pack("<LH", start + 7, 0)
    one.path.write_bytes(whole[:start] + b"payload" + whole[start : start + length] + end)


def bomb(one: Forger) -> None:
    with zipfile.ZipFile(one.path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", b" " * 10_000_000)
        archive.writestr("results.jsonl", b"")


def lying(one: Forger) -> None:
    """Let the list of members say that the manifest is shorter than it is."""
    whole, size = one.write(), struct.pack("<L", len(one.members()["manifest.json"]))
    place = whole.rindex(b"PK\1\2", 0, whole.rindex(b"PK\1\2"))
    one.path.write_bytes(whole[: place + 20] + (whole[place + 20 :]).replace(size * 2, struct.pack("<2L", 9, 9), 1))


def sixty_four(one: Forger) -> None:
    whole = one.write()
    *_, length, start, _ = struct.unpack("<4s4H2LH", whole[-22:])
    locator = b"PK\6\7" + bytes(16)
    end = whole[-22:-10] + struct.pack("<2LH", length + len(locator), start, 0)
    one.path.write_bytes(whole[:-22] + locator + end)


def commented(one: Forger) -> None:
    one.write()
    with zipfile.ZipFile(one.path, "a") as archive:
        archive.comment = b"abc"


def misnamed(one: Forger) -> None:
    """Claim UTF-8 for a name that is none."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("é.json", b"")
    one.path.write_bytes(buffer.getvalue().replace("é".encode(), b"\xff\xff"))


def unlisted(one: Forger) -> None:
    first = one.members()
    one.images = {IMAGES: b"x"}
    one.write(says=first["manifest.json"])


def other_results(one: Forger) -> None:
    whole = one.members()
    one.write(says=whole["manifest.json"], lines=whole["results.jsonl"].replace(b"digits", b"digitz"))


PARTS = "is one of several parts, has a comment, or is a zip file of 64 bits"
ONLY = "; a bundle holds manifest.json, results.jsonl, log.jsonl and noise/KEY.safetensors"
HOSTILE: dict[str, tuple[Hostile, str]] = {
    "no zip": (lambda one: one.path.write_bytes(b"hello"), "is not a zip file, or was cut short"),
    "an empty file": (lambda one: one.path.write_bytes(b""), "is not a zip file, or was cut short"),
    "cut short": (truncated, "is not a zip file, or was cut short"),
    "trailing bytes": (around(behind=b"after"), "has 5 bytes behind its end"),
    "a comment": (commented, "has 3 bytes behind its end"),
    "a program before it": (around(before=b"#!/bin/sh\n"), "has 10 bytes that belong to no member"),
    "a program before it, offsets right": (prefixed, "is not the file that `uebench submit` writes for its contents"),
    "two zips in one file": (lambda one: around(before=one.write())(one), "bytes that belong to no member"),
    "bytes between the members": (hidden, "is not the file that `uebench submit` writes for its contents"),
    "64 bits": (sixty_four, PARTS),
    "several parts": (
        patched(b"PK\5\6\0\0", b"PK\5\6\1\0"),
        "is one of several parts, has a comment, or is a zip file of 64 bits",
    ),
    "too many members": (
        lambda one: zipped(one.path, {f"noise/{place:032x}.safetensors": b"" for place in range(300)}),
        "has 300 members in a list of 28800 bytes; a bundle has at most 256",
    ),
    "more members than it says": (
        patched(b"PK\5\6" + bytes(4) + b"\2\0\2\0", b"PK\5\6" + bytes(4) + b"\1\0\1\0"),
        "has 1 members in a list of 118 bytes",
    ),
    "fewer members than it says": (
        patched(b"PK\5\6" + bytes(4) + b"\2\0\2\0", b"PK\5\6" + bytes(4) + b"\3\0\3\0"),
        "lists 2 members and says 3",
    ),
    "an absolute path": (member("/etc/passwd"), f"holds a member '/etc/passwd'{ONLY}"),
    "a way out": (member("noise/../../x"), f"holds a member 'noise/../../x'{ONLY}"),
    "a way out of Windows": (member("noise\\..\\x"), f"holds a member 'noise\\\\..\\\\x'{ONLY}"),
    "a drive": (member("C:x"), f"holds a member 'C:x'{ONLY}"),
    "a folder": (member("noise/"), f"holds a member 'noise/'{ONLY}"),
    "the same name in capitals": (member("Manifest.json"), f"holds a member 'Manifest.json'{ONLY}"),
    "a name that turns around": (member("manifest\u202enosj."), "holds a member 'manifest\\u202enosj.'"),
    "a name cut by a null": (
        patched(b"results.jsonl", b"results\0jsonl"),
        "holds a member 'results\\x00jsonl'",
    ),
    "a name that is no UTF-8": (
        misnamed,
        "is not a valid zip file: 'utf-8' codec can't decode",
    ),
    "a code module": (member("uebench_plugin.py"), "holds a member 'uebench_plugin.py'"),
    "a pickle": (member("noise/noise.pt"), "holds a member 'noise/noise.pt'"),
    "a member twice": (twice, "holds results.jsonl twice"),
    "no results": (lambda one: zipped(one.path, {"manifest.json": b"{}"}), "holds no results.jsonl"),
    "encrypted": (
        patched(b"\x14\0\0\0\0\0\0\0!\0", b"\x14\0\1\0\0\0\0\0!\0"),
        "manifest.json is encrypted",
    ),
    "a bomb": (bomb, "manifest.json is compressed; members of a bundle are stored as they are"),
    "a link": (
        lambda one: one.write(external_attr=(stat.S_IFLNK | 0o777) << 16),
        "manifest.json is a link",
    ),
    "a device": (
        lambda one: one.write(external_attr=(stat.S_IFCHR | 0o600) << 16),
        "manifest.json is not a plain file",
    ),
    "a set-user-id bit": (
        lambda one: one.write(external_attr=0o4755 << 16),
        "is not the file that `uebench submit` writes for its contents",
    ),
    "a length that lies": (lying, "is damaged: Bad CRC-32 for file 'manifest.json'"),
    "a manifest too large": (raw(b" " * 300_000), "manifest.json has 300000 bytes; at most 262144"),
    "a changed byte": (patched(b"Ada Example", b"Eve Example", 1), "is damaged: Bad CRC-32 for file 'manifest.json'"),
    "results changed behind the manifest": (other_results, "results.jsonl does not match its SHA-256 and length"),
    "a member that the manifest hides": (unlisted, f"'{IMAGES}' is not in the manifest"),
    "a member that is not there": (
        says(members={"results.jsonl": {"bytes": 1, "sha256": ""}, IMAGES: {"bytes": 1, "sha256": ""}}),
        f"'{IMAGES}' is missing",
    ),
    "no JSON": (raw(b"{"), "manifest.json is no JSON: Expecting property name"),
    "no table": (raw(b"[]"), "manifest.json: Expected `object`, got `array`"),
    "no UTF-8": (raw(b'{"suite": "\xff"}'), "manifest.json is no UTF-8: invalid start byte at byte 11"),
    "a byte order mark": (raw(b"\xef\xbb\xbf{}"), "manifest.json is no JSON: Unexpected UTF-8 BOM"),
    "deep nesting": (raw(b"[" * 100_000), "manifest.json is nested too deeply"),
    "a huge whole number": (
        raw(b'{"schema": ' + b"9" * 200_000 + b"}"),
        "manifest.json: a whole number of 200000 digits",
    ),
    "a number beyond all": (raw(b'{"schema": 1e999}'), "manifest.json: 1e999 is beyond every number"),
    "NaN": (raw(b'{"schema": NaN}'), "manifest.json: NaN is no number"),
    "minus infinity": (raw(b'{"schema": -Infinity}'), "manifest.json: -Infinity is no number"),
    "a field twice": (raw(b'{"schema": 1, "schema": 1}'), "manifest.json: field 'schema' stands twice"),
    "another schema": (says(schema=2), "manifest.json has schema 2; this version reads 1"),
    "an unknown field": (says(script="x"), "manifest.json: Object contains unknown field `script`"),
    "a field missing": (
        lambda one: raw(json.dumps({k: v for k, v in one.manifest.items() if k != "terms"}).encode())(one),
        "manifest.json: Object missing required field `terms`",
    ),
    "a wrong type": (says(seeds="0"), "manifest.json: Expected `array`, got `str` - at `$.seeds`"),
    "a wrong type inside": (says(seeds=[True]), "manifest.json: Expected `int`, got `bool` - at `$.seeds[0]`"),
    "a terminal escape": (named('"\\u001b[31mred"'), "holds a character that does not show: '\\x1b'"),
    "a line break": (named('"a\\nb"'), "holds a character that does not show: '\\n'"),
    "text that turns around": (named('"a\\u202eb"'), "holds a character that does not show: '\\u202e'"),
    "half a character": (named('"\\ud800"'), "holds a character that does not show: '\\ud800'"),
    "a text too long": (named('"' + "x" * 5000 + '"'), "manifest.json: a text of 5000 characters; at most 4000"),
    "a line of results that does not end": (
        lambda one: one.write(lines=b"{}"),
        "results.jsonl line 1 does not end",
    ),
    "a result that is no record": (
        lambda one: one.write(lines=b"[]\n"),
        "line 1: Expected `object`, got `array`",
    ),
    "a result with NaN": (lambda one: one.write(lines=b'{"seed": NaN}\n'), "results.jsonl line 1: NaN is no number"),
    "a result of another schema": (
        lambda one: one.write(lines=b'{"schema": 9}\n'),
        "results.jsonl line 1 has schema 9; this version reads 1",
    ),
    "a result twice": (
        lambda one: one.write(lines=one.members()["results.jsonl"].splitlines(True)[0] * 2),
        "stands there twice",
    ),
    "results out of order": (
        lambda one: one.write(lines=b"".join(reversed(one.members()["results.jsonl"].splitlines(True)))),
        "is out of order",
    ),
    "a log too large": (
        lambda one: zipped(one.path, {**one.members(), "log.jsonl": b" " * (2**24 + 1)}),
        "log.jsonl has 16777217 bytes; at most 16777216",
    ),
    "a log that the manifest hides": (member("log.jsonl"), "'log.jsonl' is not in the manifest"),
    "images with a header bomb": (
        tensors({}, 0, length=2**62),
        f"has a header of {2**62} bytes; at most 1000",
    ),
    "images without a header": (picture(b"123"), "has a header of"),
    "images with a header that is no JSON": (picture(struct.pack("<Q", 3) + b"abc"), f"{IMAGES}, header is no JSON"),
    "two arrays": (tensors({"images": array(), "more": array()}, 18), "header: Object contains unknown field `more`"),
    "floats for images": (tensors({"images": array("F32")}, 18), "must hold images uint8 (n, c, h, w) of 18 bytes"),
    "images of a wrong shape": (tensors({"images": array(shape=(9, 9, 9, 9))}, 18), "not U8 [9, 9, 9, 9]"),
    "images elsewhere": (tensors({"images": array(end=10**9)}, 18), "has its images at [0, 1000000000], not [0, 18]"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_refused_with_its_own_words_and_nothing_is_written(
    case: str,
    made: list[Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    put_on_board(tmp_path / "leaderboards", made[:1])
    make, expected = HOSTILE[case]
    make(Forger(tmp_path / "hostile.zip", made))
    before = contents(tmp_path)
    for command in ("verify", "accept"):
        done = CliRunner().invoke(main, [command, "hostile.zip", "--suite", str(TINY), "--rerun", "1"])
        assert done.exit_code == 2, done.output
        (line,) = done.output.splitlines()
        assert line.startswith("Error: hostile.zip")
        assert expected in line
        assert line.isprintable()
        assert contents(tmp_path) == before


def test_hostile_files_have_words_of_their_own() -> None:
    """But for files of which a reader cannot tell more: cut short, altered, of another kind of zip."""
    words = [expected for _, expected in HOSTILE.values()]
    shared = {one for one in words if words.count(one) > 1}
    assert shared == {
        "is not a zip file, or was cut short",
        "is not the file that `uebench submit` writes for its contents",
        "is damaged: Bad CRC-32 for file 'manifest.json'",
        PARTS,
    }
    assert len(set(words)) >= 60


def test_a_file_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large.zip").open("wb") as file:
        file.truncate(2**31)  # takes no room on disk
    with pytest.raises(UserError, match=f"large.zip has {2**31} bytes; a bundle has at most {2**31 - 1}"):
        read_bundle(tmp_path / "large.zip")


def test_what_is_no_file_is_said(tmp_path: Path) -> None:
    for name in ("", "nowhere.zip"):
        with pytest.raises(UserError, match="is not a file"):
            read_bundle(tmp_path / name)


class One(StrictStruct):
    one: int


@pytest.mark.parametrize(
    ("value", "shape", "expected"),
    [
        (1, float, None),
        (True, float, "place: Expected `float`, got `bool`"),
        (1.0, int, "place: Expected `int`, got `float`"),
        ("1", int, "place: Expected `int`, got `str`"),
        (None, float | None, None),
        ({"any": 3}, dict[str, str], "place: Expected `str`, got `int` - at `$[...]`"),
        ({"one": 1}, One, None),
        ({"one": 1, "\n": 1}, One, r"place: Object contains unknown field `\n`"),
        ({"one": 1, "y" * 999: 1}, One, f"place: Object contains unknown field `{'y' * 169}"),
        ({}, One, "place: Object missing required field `one`"),
    ],
)
def test_values_have_their_type(value: object, shape: object, expected: str | None) -> None:
    if expected is None:
        check_shape(value, shape, "place")
    else:
        with pytest.raises(UserError) as error:
            check_shape(value, shape, "place")
        assert expected == str(error.value)
